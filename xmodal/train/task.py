"""What the loop asks of whatever it trains on: scenes of points, or recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from xmodal.train.phases import Phase


@dataclass(frozen=True)
class Place:
    """What a step looked at, for people and for the record of a step that failed.

    Attributes:
        name: In words.
        record: JSON values: which rows.
        bad: Teacher rows among them that are not finite, in words.
    """

    name: str
    record: Mapping[str, Any]
    bad: Sequence[str]


@dataclass(frozen=True)
class Memory:
    """What a step needs memory for, and the settings that lower it."""

    what: str
    settings: str


@runtime_checkable
class Task(Protocol):
    """Draws what a step looks at and computes the losses there.

    A drawn thing is the task's own affair; the loop only hands it back.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What of the data must be the same when a run is resumed; JSON values."""
        ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What the task itself remembers from step to step, by its name in checkpoints."""
        ...

    @property
    def unused(self) -> Sequence[str]:
        """Options that have no effect here."""
        ...

    @property
    def memory(self) -> Memory:
        """What takes memory."""
        ...

    def start(self, rng: np.random.Generator) -> None:
        """Set last layers and the like from samples of teachers' rows."""
        ...

    def enter(self, phase: Phase) -> list[dict[str, Any]]:
        """Begin a stage; records for the log."""
        ...

    def draw(self, rng: np.random.Generator, *, halve: bool) -> Any:
        """What a step looks at, or half as much."""
        ...

    def losses_of(
        self, drawn: Any, phase: Phase, rng: np.random.Generator
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """The loss of each edge that counts, and the rows that gradients are compared in."""
        ...

    def count(self, drawn: Any) -> int:
        """Points or recordings that a step looked at."""
        ...

    def place(self, drawn: Any) -> Place:
        """Where a step was."""
        ...


def head_of(net: nn.Module | None) -> dict[str, nn.Module]:
    """The `net` of an edge as an argument, for edges that have one."""
    return {} if net is None else {"net": net}
