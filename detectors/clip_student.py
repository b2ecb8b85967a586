"""Students of recordings: a network from one fixed-size input of a window to one feature row.

A trunk looks at the input of a window and gives maps of several depths and one row; the student
adds the head that brings the row into the teacher's space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.principal_start import principal_start
from detectors.spaces import Space, to_space

# `micro` is for very small machines and very little data.
ClipSize = Literal["micro", "tiny", "small", "base"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a trunk makes of a batch of inputs.

    Attributes:
        maps: What its stages gave, first to last: windows, channels, then places in the window.
        rows: One row for each window.
    """

    maps: tuple[Float[Tensor, "B _ ..."], ...]
    rows: Float[Tensor, "B D"]


class ClipTrunk(nn.Module, ABC):
    """A network from the inputs of windows to maps and one row of `width` channels.

    Args:
        width: Channels of a row.
        map_channels: Channels of each map, first to last.
        in_shape: Shape of one input.

    Attributes:
        last_hw: Rows and columns that a decoder of dense maps brings the last map to.
    """

    last_hw: tuple[int, int] = (4, 4)

    def __init__(
        self, *, width: int, map_channels: tuple[int, ...], in_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.width, self.map_channels, self.in_shape = width, map_channels, in_shape

    @abstractmethod
    def see(self, inputs: Float[Tensor, "B ..."]) -> Seen:
        """Maps and rows of checked inputs."""

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Seen:
        """Maps and rows.

        Raises:
            ValueError: If the inputs have another shape than the trunk was made for.
        """
        if tuple(inputs.shape[1:]) != self.in_shape:
            msg = f"one input has the shape {self.in_shape}, not {tuple(inputs.shape[1:])}"
            raise ValueError(msg)
        return self.see(inputs)


class ClipStudent(nn.Module):
    """A trunk with a head: one row for each window, in a declared space.

    Args:
        trunk: The network over inputs.
        out_channels: Width of the rows.
        space: `simplex`: rows are probabilities (soft-max). `unit`: rows have length 1; a row of
            zeros stays zero. `raw`: rows as they come.
        head_channels: Width of the layer before the last.
        dropout: Part of the trunk's row that is hidden while training.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        trunk: ClipTrunk,
        out_channels: int,
        *,
        space: Space = "raw",
        head_channels: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(out_channels, head_channels) < 1 or not 0 <= dropout < 1:
            msg = (
                f"out_channels ({out_channels}) and head_channels ({head_channels}) must be at "
                f"least 1, dropout ({dropout}) 0 or more and below 1"
            )
            raise ValueError(msg)
        self.space: Space = space
        self.trunk = trunk
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(trunk.width, head_channels),
            nn.LayerNorm(head_channels),
            nn.ReLU(),
        )
        self.output = nn.Linear(head_channels, out_channels)

    @property
    def out_channels(self) -> int:
        """Width of the rows."""
        return self.output.out_features

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.trunk.in_shape

    def see(self, inputs: Float[Tensor, "B ..."]) -> Seen:
        """The trunk's maps and rows, for losses at several depths beside `decode(seen.rows)`.

        Raises:
            ValueError: If the inputs have another shape than the trunk was made for.
        """
        return self.trunk(inputs)

    def encode(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        """The trunk's rows, before the head."""
        return self.see(inputs).rows

    def features(self, inputs: Float[Tensor, "B ..."]) -> list[Tensor]:
        """The trunk's maps, first stage to last; channels are the second axis."""
        return list(self.see(inputs).maps)

    def decode(self, encoded: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Rows in the student's space from the trunk's rows."""
        return to_space(self.output(self.head(encoded)), self.space)

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B C"]:
        """Rows in the student's space."""
        return self.decode(self.encode(inputs))

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Set the last layer from a sample of the teacher's rows, before the first step."""
        principal_start(self.output, rows.to(self.output.weight.device), self.space)


class TrunkAlone(nn.Module):
    """A student without its head: the trunk's rows as they come.

    Args:
        student: The student; its weights are shared.
    """

    space: Space = "raw"

    def __init__(self, student: ClipStudent) -> None:
        super().__init__()
        self.trunk = student.trunk

    @property
    def out_channels(self) -> int:
        """Width of the rows."""
        return self.trunk.width

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        """The trunk's rows.

        Raises:
            ValueError: If the inputs have another shape than the trunk was made for.
        """
        rows: Tensor = self.trunk(inputs).rows
        return rows


def num_parameters(net: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(parameter.numel() for parameter in net.parameters())


def mean_and_max(
    x: Float[Tensor, "B C T"], seen: Float[Tensor, "B 1 T"] | None = None
) -> Float[Tensor, "B C2"]:
    """Mean and largest value over time, side by side; zeros where nothing was seen.

    Args:
        x: A map over time.
        seen: 1 where the map stands on readings, 0 where on padding or gaps; None for everywhere.
    """
    if seen is None:
        return torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)
    mean = (x * seen).sum(dim=2) / seen.sum(dim=2).clamp_min(1.0)
    # Far below any activation, so that padding never is the largest.
    largest = (x - (1.0 - seen) * 1e4).amax(dim=2) * seen.amax(dim=2)
    return torch.cat([mean, largest], dim=1)
