"""What training over recordings works on: networks, windows of streams, rows of frozen nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmodal.recordings.inputs import Clips
from xmodal.recordings.ragged import take_samples
from xmodal.values import Embedding, Grids

# Enough to tell a thousand directions apart.
_START_ROWS = 4096

Rows = Embedding | Grids


@runtime_checkable
class ClipOp(Protocol):
    """What training needs of a student's op that looks at windows of a stream."""

    def describe(self, value: Any) -> Clips:
        """The inputs of all windows."""
        ...

    def vary(
        self, inputs: Float[Tensor, "B ..."], generator: torch.Generator
    ) -> Float[Tensor, "B ..."]:
        """Windows as training shows them."""
        ...


@dataclass(frozen=True, eq=False)
class ClipLearner:
    """A network over recordings in training.

    Attributes:
        op: Its op: one that looks at windows, or one that is called with rows of other nodes.
        net: Its module.
        sources: The nodes that it sees.
        warm: Whether its weights mean something already; otherwise its last layer is set from its
            teacher's rows before the first step.
    """

    op: Any
    net: Any
    sources: tuple[str, ...]
    warm: bool = False

    @property
    def cloud(self) -> str:
        """The nodes that it sees."""
        return ", ".join(self.sources)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """The recordings of a training, with all that students and losses need of them.

    Attributes:
        names: Of the recordings, in order.
        clips: For each student that looks at a stream, its windows.
        stored: Rows of frozen nodes: teachers, and what fusions see.
        classes: Class of each recording, -1 for none.
        groups: Number of each recording's group.
    """

    names: tuple[str, ...]
    clips: Mapping[str, Clips]
    stored: Mapping[str, Rows]
    classes: Int[Tensor, " B"]
    groups: Int[Tensor, " B"]

    def take(self, places: Sequence[int]) -> Recorded:
        """Some of the recordings; inputs of windows stay where they are."""
        index = torch.as_tensor(places, dtype=torch.int64)
        return Recorded(
            names=tuple(self.names[i] for i in places),
            clips={name: clips.take(index) for name, clips in self.clips.items()},
            stored={name: take_samples(value, index) for name, value in self.stored.items()},
            classes=self.classes[index],
            groups=self.groups[index],
        )

    def sample(self, name: str, rng: np.random.Generator) -> Float[Tensor, "R C"]:
        """Some of the rows that a stored node is sure of, in float32."""
        value = self.stored[name]
        seen = (value.valid & (value.weight > 0)).nonzero().squeeze(1).numpy()
        chosen = np.sort(rng.permutation(seen)[:_START_ROWS])
        return value.rows[torch.from_numpy(chosen)].float()

    def bad_samples(self, name: str, places: Tensor) -> list[int]:
        """Which of some recordings have rows that are not finite."""
        value = take_samples(self.stored[name], places)
        wrong = ~torch.isfinite(value.rows).all(dim=1) & value.valid
        sample = torch.arange(len(places)).repeat_interleave(value.offsets.diff())
        return sorted(set(sample[wrong].tolist()))


def in_common(teacher: Rows, student: Rows) -> bool:
    """Whether any row of both counts."""
    if len(teacher.rows) != len(student.rows):
        return len(teacher.rows) > 0 and len(student.rows) > 0
    counts = (teacher.valid & (teacher.weight > 0)) & (student.valid & (student.weight > 0))
    return bool(counts.any())


def detached(value: Rows) -> Rows:
    """The value without a way back for gradients."""
    if isinstance(value, Grids) and value.maps is not None:
        value = replace(value, maps=tuple(one.detach() for one in value.maps))
    return replace(value, rows=value.rows.detach())


def moved(value: Rows, device: str) -> Rows:
    """The value on a device, rows in float32."""
    return replace(
        value,
        rows=value.rows.to(device, torch.float32),
        valid=value.valid.to(device),
        weight=value.weight.to(device),
    )
