"""Masked modelling: whole cells of a cloud whose inputs a student does not get to see.

The student is told where surfaces are, hidden places too, and must say from their surroundings what
is there. With a teacher's rows as the target this is masked prediction of features.

Source:
    Pang et al., Masked Autoencoders for Point Cloud Self-supervised Learning (Point-MAE), ECCV
    2022; Dong et al., Autoencoders as Cross-Modal Teachers (ACT), ICLR 2023. Unlike both, hidden
    cells stay in the network's grid instead of being left out of its encoder, so that one network
    without a decoder serves training and use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from lifting.points import Voxels, voxelize


@dataclass(frozen=True)
class CellMask:
    """How much of a cloud is hidden while training.

    Attributes:
        ratio: Chance of a cell to be hidden, above 0 and below 1.
        cell_m: Side of a cell, metres.

    Raises:
        ValueError: If one is out of range.
    """

    ratio: float
    cell_m: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or not 0 < self.cell_m < float("inf"):
            msg = f"a part of 0..1 in cells of some metres is hidden, not {self}"
            raise ValueError(msg)

    def draw(self, voxels: Voxels) -> Bool[Tensor, " V"]:
        """Which voxels are hidden now: those whose centre lies in a hidden cell.

        Drawn from torch's global generator on the CPU, on every device alike, whose state is part
        of checkpoints. Each cell is drawn by itself, so a small cloud may stay whole, or vanish.
        """
        cells = voxelize(voxels.centres_m(), self.cell_m, voxels.offsets)
        hidden = torch.rand(cells.num_voxels) < self.ratio
        return hidden.to(cells.index.device)[cells.index]
