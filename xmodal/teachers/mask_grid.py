"""Masks of everything in an image: a grid of prompt points, filtered at low resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

# Prompt points and a least predicted IoU, to mask logits [m, s, s] and their predicted IoU [m].
Decode = Callable[[Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """How masks are prompted and filtered.

    Attributes:
        grid: Prompt points along each image side.
        min_iou: Least IoU that the network predicts for its own mask.
        min_stability: Least ratio of the areas at logit > 1 and logit > -1.
        max_overlap: Of two masks with a higher IoU, only the one of higher predicted IoU stays.
        min_area: Least area, as a fraction of the image (0.0004 is 120 of 640 x 480 pixels).
        max_area: Greatest area, as a fraction of the image.
        batch: Prompts decoded at once; more cost memory (30 MB each) and little time is gained.
    """

    grid: int = 16
    min_iou: float = 0.86
    min_stability: float = 0.88
    max_overlap: float = 0.7
    min_area: float = 0.0004
    max_area: float = 0.9
    batch: int = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskLogits:
    """Masks of one image, best first.

    Attributes:
        logits: Over a grid that covers the image; a cell belongs to the mask where it is positive.
        iou: Predicted IoU.
    """

    logits: Float[Tensor, "M h w"]
    iou: Float[Tensor, " M"]

    @property
    def members(self) -> Bool[Tensor, "M h w"]:
        """Which cells belong to each mask."""
        return self.logits > 0

    def weight(self, area_power: float) -> Float[Tensor, " M"]:
        """How much each mask counts where masks overlap: predicted IoU x area^-area_power.

        Area is a fraction of the image, so a power above 0 lets the part win over the whole.
        """
        share = self.members.flatten(1).float().mean(dim=1)
        return self.iou * share.clamp_min(1e-6) ** -area_power


def point_grid(side: int, hw: tuple[int, int]) -> Float[Tensor, "N 2"]:
    """Centres (x, y) of side x side equal cells over an image of size `hw`, row-major."""
    ticks = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(ticks * hw[0], ticks * hw[1], indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def grid_masks(
    decode: Decode,
    *,
    input_hw: tuple[int, int],
    input_side: int,
    options: GridOptions,
    long_side: int = 256,
) -> MaskLogits:
    """Prompt a grid of points and keep the confident, stable, distinct masks.

    Args:
        decode: Masks for prompt points in pixels of SAM's input.
        input_hw: Size of the image inside SAM's input, pixels.
        input_side: Side of SAM's square input, pixels.
        options: Grid and thresholds.
        long_side: Cells of the result along the longer image side.
    """
    grid_hw = scaled_hw(input_hw, long_side)
    points = point_grid(options.grid, input_hw)
    kept: list[tuple[Tensor, Tensor]] = []
    for batch in points.split(options.batch):
        logits, iou = decode(batch, options.min_iou)
        cut = crop_padding(logits, input_hw, input_side, grid_hw)
        good = _passes(cut, options)
        kept.append((cut[good], iou[good]))
    logits = torch.cat([pair[0] for pair in kept])
    iou = torch.cat([pair[1] for pair in kept])
    keep = suppress(logits > 0, iou, options.max_overlap)
    return MaskLogits(logits=logits[keep], iou=iou[keep])


def scaled_hw(hw: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Size with the given longer side and the same shape, at least 1 x 1."""
    scale = long_side / max(hw)
    return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))


def crop_padding(
    logits: Float[Tensor, "M s s"],
    input_hw: tuple[int, int],
    input_side: int,
    grid_hw: tuple[int, int],
) -> Float[Tensor, "M h w"]:
    """Read logits at the centres of a grid that covers the image but not SAM's padding."""
    side = logits.shape[-1]
    covered = [input_hw[axis] * side / input_side for axis in (0, 1)]
    if covered == list(grid_hw):
        return logits[:, : grid_hw[0], : grid_hw[1]]
    # Grid-sample coordinates run from -1 to 1 over the whole square.
    y, x = (
        (torch.arange(n) + 0.5) / n * extent / side * 2 - 1
        for n, extent in zip(grid_hw, covered, strict=True)
    )
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    return nn.functional.grid_sample(
        logits[None], where[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def suppress(
    members: Bool[Tensor, "M h w"], score: Float[Tensor, " M"], max_overlap: float
) -> Int64[Tensor, " K"]:
    """Greedy non-maximum suppression by mask IoU.

    Returns:
        Indices of the masks that stay, best first; equal scores keep their order.
    """
    order = torch.argsort(score, descending=True, stable=True)
    flat = members[order].flatten(1).float()
    area = flat.sum(dim=1)
    shared = flat @ flat.T
    union = area[:, None] + area[None, :] - shared
    clash = shared > max_overlap * union
    alive = torch.ones(order.numel(), dtype=torch.bool)
    for index in range(order.numel()):
        if alive[index]:
            alive[index + 1 :] &= ~clash[index, index + 1 :]
    return order[alive]


def _passes(logits: Tensor, options: GridOptions) -> Tensor:
    cells = max(1, logits.shape[1] * logits.shape[2])
    # SAM's stability score: how little the mask changes when the threshold moves by 1.
    high, low, area = ((logits > level).flatten(1).sum(dim=1) for level in (1.0, -1.0, 0.0))
    stable = high >= options.min_stability * low
    return stable & (area >= options.min_area * cells) & (area <= options.max_area * cells)
