"""Dense maps of two sensors that share no axes: places are matched before they are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.loss_checks import check_counts
from xmodal.losses.rows import direction, weighted_mean

Compare = Literal["mse", "cosine"]


class SpatialMatching(nn.Module):
    """Maps of a student, brought to the places of the teacher's by learnt embeddings of places.

    At each layer every place of the teacher's map has an embedding. It looks at all places of the
    student's map (a soft-max over the products of the embedding with the student's features there)
    and gets a mean of their values, to which its own is added. That is compared with the teacher's
    map of this layer: the dense map, averaged over larger cells.

    Args:
        student_channels: Channels of the student's maps, layer by layer.
        teacher_channels: Channels of the teacher's map.
        sides: Rows and columns that the teacher's map is compared at, layer by layer.
        width: Width of an embedding.

    Raises:
        ValueError: If there is no layer, numbers of layers differ, or a number is below 1.

    Source:
        Yun et al., Dense 2D-3D Indoor Prediction with Sound via Aligned Cross-Modal Distillation,
        ICCV 2023, section 3 (Spatial Alignment via Matching), with the teacher's map at several
        scales in place of the inner maps of its network.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: int,
        sides: Sequence[tuple[int, int]],
        *,
        width: int = 32,
    ) -> None:
        super().__init__()
        if not sides or len(sides) != len(student_channels):
            msg = f"{len(student_channels)} maps of the student cannot be met at {len(sides)} sizes"
            raise ValueError(msg)
        check_counts(
            teacher_channels=teacher_channels,
            width=width,
            student_channels=min(student_channels),
            sides=min(min(side) for side in sides),
        )
        self.sides = tuple((int(height), int(columns)) for height, columns in sides)
        # As wide spread as a soft-max needs to tell places apart from the first step on.
        self.places = nn.ParameterList(
            nn.Parameter(torch.randn(height * columns, width)) for height, columns in self.sides
        )
        self.keys = nn.ModuleList(nn.Linear(channels, width) for channels in student_channels)
        self.values = nn.ModuleList(
            nn.Linear(channels, teacher_channels) for channels in student_channels
        )
        self.own = nn.ModuleList(nn.Linear(width, teacher_channels) for _ in self.sides)

    def aligned(self, maps: Sequence[Float[Tensor, "B _ ..."]]) -> list[Float[Tensor, "B cells C"]]:
        """The student's maps at the teacher's places, layer by layer.

        Raises:
            ValueError: If there are other numbers of layers.
        """
        if len(maps) != len(self.sides):
            msg = f"the student gives {len(maps)} maps, not {len(self.sides)}"
            raise ValueError(msg)
        found: list[Tensor] = []
        for layer, (one, places) in enumerate(zip(maps, self.places, strict=True)):
            features = one.flatten(2).transpose(1, 2)
            logits = self.keys[layer](features) @ places.T / math.sqrt(places.shape[1])
            share = logits.softmax(dim=1).transpose(1, 2)
            found.append(share @ self.values[layer](features) + self.own[layer](places))
        return found

    def forward(
        self,
        teacher: Float[Tensor, "B C H W"],
        maps: Sequence[Float[Tensor, "B _ ..."]],
        *,
        valid: Bool[Tensor, "B H W"],
        compare: Compare = "mse",
    ) -> Float[Tensor, ""]:
        """The mean over layers of the difference, averaged over cells that were observed.

        Args:
            teacher: The dense map; where it is not valid it may be anything.
            maps: The student's, first layer to last.
            valid: Cells that were observed; a larger cell counts by its observed part.
            compare: Squared differences averaged over channels, or 1 - cosine.

        Raises:
            ValueError: If there are other numbers of layers.
        """
        clean = torch.where(valid[:, None], teacher, 0.0)
        total = teacher.new_zeros(())
        for given, side in zip(self.aligned(maps), self.sides, strict=True):
            seen = nn.functional.adaptive_avg_pool2d(valid[:, None].to(clean.dtype), side)
            told = nn.functional.adaptive_avg_pool2d(clean, side) / seen.clamp_min(1e-12)
            told, weight = told.flatten(2).transpose(1, 2), seen.flatten()
            kept = (weight > 0).nonzero().squeeze(1)
            mine, theirs = given.flatten(0, 1)[kept], told.flatten(0, 1)[kept]
            if compare == "mse":
                values = (mine - theirs).square().mean(dim=1)
            else:
                values = 1 - (direction(mine) * direction(theirs)).sum(dim=1)
            total = total + weighted_mean(values, weight[kept], given.flatten(0, 1))
        return total / len(self.sides)
