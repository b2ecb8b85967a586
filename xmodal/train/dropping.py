"""Teachers that are hidden from a student by chance, so that it leans on none of them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xmodal.errors import UsageError
from xmodal.train.data import Distill
from xmodal.train.recorded import Rows

Shown = dict[tuple[str, str], Bool[Tensor, " B"]]


class TeacherDropping:
    """Draws in every step which teachers of a recording are shown to each student.

    Args:
        share: Chance that a teacher of a recording is hidden; one always stays.
        edges: All edges of the training.
        known: Which recordings a node says something of.

    Raises:
        UsageError: If there is a chance, and no student has two teachers.
    """

    def __init__(
        self,
        share: float,
        edges: Sequence[Distill],
        known: Callable[[str], Bool[Tensor, " N"]],
    ) -> None:
        self.share = share
        self._known = {name: known(name) for e in edges for name in e.teachers} if share else {}
        if share and all(len(names) < 2 for names in _teachers(edges).values()):
            raise UsageError(
                f"drop_teachers {share:g}",
                wanted="a student with two teachers: one always stays",
                got="one for each student",
                fix="teach it by another edge too, or leave drop_teachers out",
            )

    def shown(
        self, edges: Sequence[Distill], places: Int[Tensor, " B"], generator: torch.Generator
    ) -> Shown:
        """By student and teacher, the recordings of a batch of which it is shown; all if absent.

        Args:
            edges: Edges of the step.
            places: Numbers of the recordings.
            generator: Of the draws.
        """
        found: Shown = {}
        for student, names in _teachers(edges).items() if self.share else ():
            there = torch.stack([self._known[name][places] for name in names])
            kept = kept_teachers(there, self.share, generator)
            found |= {(student, name): row for name, row in zip(names, kept, strict=True)}
        return found


def kept_teachers(
    there: Bool[Tensor, "T B"], share: float, generator: torch.Generator
) -> Bool[Tensor, "T B"]:
    """Hide each teacher of each recording by chance; one that is there stays.

    Args:
        there: Which teachers say something of which recordings.
        share: Chance to be hidden.
        generator: Of the draws.
    """
    drawn = torch.rand(there.shape, generator=generator)
    kept = there & (drawn >= share)
    # The highest draw is the last to be hidden, so all have the same chance to be the one.
    last = torch.where(there, drawn, -1.0).argmax(dim=0)
    kept[last, torch.arange(there.shape[1])] = there.any(dim=0)
    return kept


def shown_rows(value: Rows, shown: Bool[Tensor, " B"] | None) -> Rows:
    """The rows of a teacher, not valid for recordings of which it is hidden."""
    if shown is None:
        return value
    rows = shown.repeat_interleave(value.offsets.diff().to(shown.device))
    return replace(value, valid=value.valid & rows.to(value.valid.device))


def _teachers(edges: Sequence[Distill]) -> dict[str, list[str]]:
    """Teachers of every student, each once."""
    return {
        student: list(dict.fromkeys(t for e in edges if e.student == student for t in e.teachers))
        for student in dict.fromkeys(edge.student for edge in edges)
    }
