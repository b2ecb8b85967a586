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
    map of this layer: one of its network's inner maps, or the dense map, averaged over larger
    cells.

    Args:
        student_channels: Channels of the student's maps, layer by layer.
        teacher_channels: Channels of the teacher's map, or of its maps layer by layer.
        sides: Rows and columns that the teacher's map is compared at, layer by layer.
        width: Width of an embedding.

    Raises:
        ValueError: If there is no layer, numbers of layers differ, or a number is below 1.

    Source:
        Yun et al., Dense 2D-3D Indoor Prediction with Sound via Aligned Cross-Modal Distillation,
        ICCV 2023, section 3 (Spatial Alignment via Matching). Of a teacher that is no network of
        this training, the dense map at several scales stands for its inner maps.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: int | Sequence[int],
        sides: Sequence[tuple[int, int]],
        *,
        width: int = 32,
    ) -> None:
        super().__init__()
        if not sides or len(sides) != len(student_channels):
            msg = f"{len(student_channels)} maps of the student cannot be met at {len(sides)} sizes"
            raise ValueError(msg)
        many = isinstance(teacher_channels, Sequence)
        told = list(teacher_channels) if many else [teacher_channels] * len(sides)
        if len(told) != len(sides):
            raise ValueError(f"{len(told)} maps of the teacher cannot be met at {len(sides)} sizes")
        check_counts(
            teacher_channels=min(told),
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
            nn.Linear(*channels) for channels in zip(student_channels, told, strict=True)
        )
        self.own = nn.ModuleList(nn.Linear(width, channels) for channels in told)

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
        teacher: Float[Tensor, "B C H W"] | Sequence[Float[Tensor, "B _ _ _"]],
        maps: Sequence[Float[Tensor, "B _ ..."]],
        *,
        valid: Bool[Tensor, "B H W"],
        compare: Compare = "mse",
    ) -> Float[Tensor, ""]:
        """The mean over layers of the difference, averaged over cells that were observed.

        Args:
            teacher: The dense map, or one map for each layer; where it is not valid it may be
                anything.
            maps: The student's, first layer to last.
            valid: Cells that were observed; a larger cell counts by its observed part. They are of
                the dense map; for maps layer by layer, of any grid.
            compare: Squared differences averaged over channels, or 1 - cosine.

        Raises:
            ValueError: If there are other numbers of layers.
        """
        found = self.aligned(maps)
        layers = [teacher] * len(found) if isinstance(teacher, Tensor) else list(teacher)
        if len(layers) != len(found):
            raise ValueError(f"the teacher gives {len(layers)} maps, not {len(found)}")
        total = found[0].new_zeros(())
        for layer, given, side in zip(layers, found, self.sides, strict=True):
            told, seen = _at(layer, valid, side)
            told, weight = told.flatten(2).transpose(1, 2), seen.flatten()
            kept = (weight > 0).nonzero().squeeze(1)
            mine, theirs = given.flatten(0, 1)[kept], told.flatten(0, 1)[kept]
            if compare == "mse":
                values = (mine - theirs).square().mean(dim=1)
            else:
                values = 1 - (direction(mine) * direction(theirs)).sum(dim=1)
            total = total + weighted_mean(values, weight[kept], given.flatten(0, 1))
        return total / len(self.sides)


def _at(
    layer: Float[Tensor, "B C _ _"], valid: Bool[Tensor, "B H W"], side: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """A map over larger cells, means over what was observed, and how much of each was."""
    pooled = nn.functional.adaptive_avg_pool2d
    known = valid[:, None].to(layer.dtype)
    if known.shape[2:] != layer.shape[2:]:
        known = pooled(known, (layer.shape[2], layer.shape[3]))
    seen = pooled(known, side)
    clean = torch.where(known > 0, layer, 0.0) * known
    return pooled(clean, side) / seen.clamp_min(1e-12), seen


class MatchedTeachers(nn.Module):
    """Spatial matching with each of several teachers.

    Args:
        parts: One module for each teacher.
        student_layers: Numbers of the student's maps that are matched.
        teacher_layers: The same of each teacher's inner maps; None where its dense map is.
    """

    def __init__(
        self,
        parts: Sequence[SpatialMatching],
        student_layers: Sequence[int],
        teacher_layers: Sequence[Sequence[int] | None],
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.student_layers = tuple(student_layers)
        self.teacher_layers = tuple(teacher_layers)
