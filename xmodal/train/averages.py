"""Moving averages of students' networks: slow teachers, and weights for inference."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from xmodal.train.checkpoint import Checkpoint, fit_state
from xmodal.train.options import Average
from xmodal.train.phases import Learner


@dataclass(frozen=True, eq=False)
class _Copy:
    net: nn.Module
    source: nn.Module
    decay: float


class MovingAverages:
    """Slow copies of networks, updated after each step.

    Args:
        students: Students by node name.
        averages: Slow teachers by node name.
        ema_decay: Decay of one more copy of every student, for inference; none if None.
    """

    def __init__(
        self,
        students: Mapping[str, Learner],
        averages: Mapping[str, Average],
        ema_decay: float | None,
    ) -> None:
        self._copies: dict[str, _Copy] = {}
        for name, average in averages.items():
            self._add(f"average/{name}", students[average.student].net, average.decay)
        for name, student in students.items():
            if ema_decay is not None:
                self._add(f"ema/{name}", student.net, ema_decay)

    def _add(self, name: str, source: nn.Module, decay: float) -> None:
        net = copy.deepcopy(source).requires_grad_(False).eval()
        self._copies[name] = _Copy(net, source, decay)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The copies by the names that they have in checkpoints."""
        return {name: made.net for name, made in self._copies.items()}

    def teacher(self, name: str) -> Any:
        """The network of a slow teacher."""
        return self._copies[f"average/{name}"].net

    @torch.no_grad()
    def start(self) -> None:
        """Make all copies equal to their students."""
        for made in self._copies.values():
            made.net.load_state_dict(made.source.state_dict())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move all copies towards their students, after step `step` counted from 0."""
        for made in self._copies.values():
            decay = min(made.decay, (1.0 + step) / (10.0 + step))
            for mine, theirs in zip(made.net.parameters(), made.source.parameters(), strict=True):
                mine.lerp_(theirs, 1.0 - decay)
            for mine, theirs in zip(made.net.buffers(), made.source.buffers(), strict=True):
                mine.copy_(theirs)

    @torch.no_grad()
    def finish(self, students: Mapping[str, Learner]) -> None:
        """Give students their averaged weights for inference, where such are kept."""
        for name, student in students.items():
            if (made := self._copies.get(f"ema/{name}")) is not None:
                student.net.load_state_dict(made.net.state_dict())


def fit_student(net: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    """Load the weights that a student is to be used with: the averaged ones where it has them.

    Args:
        net: The student's network.
        checkpoint: A checkpoint of its training.
        name: The student's node.

    Raises:
        CheckpointError: If they do not fit.
    """
    averaged = f"ema/{name}"
    has = any(tensor.startswith(f"{averaged}/") for tensor in checkpoint.tensors)
    fit_state(net, checkpoint, averaged if has else name)
