"""Heads on rows of points: classes asked by text vectors, and masks asked by learnt queries.

The head that gives feature rows is part of every point student (`detectors.point_student`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

# CLIP's temperature at the start of its training, and its bound (Radford et al., ICML 2021, 2.5).
_START_SCALE, _LARGEST_SCALE = 1.0 / 0.07, 100.0
# Sines and cosines of places in the box of a sample: from the whole box to a sixteenth of it.
_POSITION_OCTAVES = 5
_MLP_RATIO = 4


class TextHead(nn.Module):
    """Classes by text vectors: logits are a learnt scale times the cosine to each vector.

    The vectors are frozen and no part of the state that is saved: other names are asked by giving
    other vectors, as many as there are.

    Args:
        vectors: One vector per class, of any length above zero.

    Raises:
        ValueError: If there are none, or one is zero or not finite.

    Source:
        Peng et al., OpenScene, CVPR 2023, section 3.3; Ding et al., PLA, CVPR 2023, section 3.1.
    """

    def __init__(self, vectors: Float[Tensor, "T C"]) -> None:
        super().__init__()
        self.register_buffer("vectors", _directions(vectors), persistent=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_START_SCALE)))

    def ask(self, vectors: Float[Tensor, "T C"]) -> None:
        """Ask for other classes from now on; the learnt scale stays.

        Raises:
            ValueError: If there are none, one is zero or not finite, or they have another width.
        """
        own: Tensor = self.get_buffer("vectors")
        if vectors.shape[1] != own.shape[1]:
            msg = f"this head reads {own.shape[1]} channels, the vectors have {vectors.shape[1]}"
            raise ValueError(msg)
        self.register_buffer("vectors", _directions(vectors).to(own), persistent=False)

    def forward(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N T"]:
        """Logits of every class; a row of zeros gives zeros.

        Raises:
            ValueError: If rows and vectors differ in width.
        """
        vectors: Tensor = self.get_buffer("vectors")
        if rows.shape[1] != vectors.shape[1]:
            msg = f"rows have {rows.shape[1]} channels, the text vectors {vectors.shape[1]}"
            raise ValueError(msg)
        scale = self.log_scale.exp().clamp_max(_LARGEST_SCALE)
        return scale * functional.normalize(rows, dim=1) @ vectors.T


def _directions(vectors: Tensor) -> Tensor:
    length = vectors.norm(dim=1)
    if len(vectors) == 0 or not bool(((length > 0) & length.isfinite()).all()):
        msg = f"{len(vectors)} text vectors; at least one is needed, each finite and not zero"
        raise ValueError(msg)
    return (vectors / length[:, None]).detach().clone()


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """Masks that a head proposes.

    Attributes:
        logits: Of each query for each point: above 0 the point belongs to the mask. A point is
            asked by the queries of its own sample.
        rows: One feature row for each query of each sample.
        score: Logit of each query of each sample to be an object at all.
    """

    logits: Float[Tensor, "K N"]
    rows: Float[Tensor, "B K C"]
    score: Float[Tensor, "B K"]


class MaskHead(nn.Module):
    """Learnt queries that look at rows of points (or of segments) and give a mask each.

    Each block lets queries attend to the points of the mask that they gave before it, then to each
    other, and gives masks again. Rows learnt from a teacher are alike for two chairs, so places are
    added to them before anything else.

    Args:
        in_channels: Width of the points' rows.
        out_channels: Width of the masks' rows.
        num_queries: Masks of a sample, K.
        width: Width inside the head; a multiple of `heads`.
        blocks: Number of blocks.
        heads: Heads of the attention.

    Raises:
        ValueError: If a number is below 1, or `heads` does not divide `width`.

    Source:
        Schult et al., Mask3D, ICRA 2023, section III-B; Cheng et al., Masked-attention Mask
        Transformer, CVPR 2022, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_queries: int,
        width: int = 128,
        blocks: int = 3,
        heads: int = 8,
    ) -> None:
        super().__init__()
        if min(num_queries, blocks, heads) < 1 or width % heads:
            msg = (
                f"num_queries ({num_queries}), blocks ({blocks}) and heads ({heads}) must be at "
                f"least 1, and heads must divide width ({width})"
            )
            raise ValueError(msg)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.input = nn.Sequential(nn.Linear(in_channels, width), nn.LayerNorm(width))
        self.position = nn.Linear(6 * _POSITION_OCTAVES, width)
        self.blocks = nn.ModuleList(_QueryBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.embed_query = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.embed_point = nn.Linear(width, width)
        self.output = nn.Linear(width, out_channels)
        self.score = nn.Linear(width, 1)

    def forward(
        self,
        rows: Float[Tensor, "N Ci"],
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
    ) -> list[MaskPrediction]:
        """Masks before the first block and after each; the last is the answer.

        All of them are meant to be compared with the truth while training.

        Args:
            rows: Rows of points or segments.
            xyz: Where they are, metres; only their place within the box of their sample counts.
            offsets: Where each sample begins and end.

        Raises:
            ValueError: If the offsets do not add up to the rows.
        """
        sizes = offsets.diff().tolist()
        if sum(sizes) != len(rows) or min(sizes, default=0) < 0:
            msg = f"samples of {sizes} points do not add up to {len(rows)} rows"
            raise ValueError(msg)
        samples = [
            self._sample(self.input(part) + self.position(_place(where)))
            for part, where in zip(rows.split(sizes), xyz.split(sizes), strict=True)
        ]
        return [self._together(level) for level in zip(*samples, strict=True)]

    def _sample(self, points: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mask logits and query rows of one sample, before the first block and after each."""
        queries, embedded = self.queries, self.embed_point(points)
        levels = [self._masks(queries, embedded)]
        for block in self.blocks:
            # Where to look is not learnt through the mask, as in the sources.
            outside = (levels[-1][0] <= 0).detach()
            # A mask without points would leave nothing to attend to: it looks everywhere.
            outside = outside & ~outside.all(dim=1, keepdim=True)
            queries = block(queries, self.queries, points, outside)
            levels.append(self._masks(queries, embedded))
        return levels

    def _masks(self, queries: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.norm(queries)
        scale = 1.0 / math.sqrt(embedded.shape[1])
        return self.embed_query(queries) @ embedded.T * scale, queries

    def _together(self, level: tuple[tuple[Tensor, Tensor], ...]) -> MaskPrediction:
        queries = torch.stack([rows for _, rows in level])
        logits = torch.cat([logits for logits, _ in level], dim=1)
        return MaskPrediction(logits, self.output(queries), self.score(queries).squeeze(2))


class _QueryBlock(nn.Module):
    """Attention of queries to points, then to each other, then a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.ReLU(), nn.Linear(_MLP_RATIO * width, width)
        )
        self.mlp_norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "K D"],
        names: Float[Tensor, "K D"],
        points: Float[Tensor, "N D"],
        outside: Bool[Tensor, "K N"],
    ) -> Float[Tensor, "K D"]:
        """Update the queries; `names` tells them apart where they have seen the same."""
        if len(points):
            query = x + names
            seen, _ = self.cross(query, points, points, attn_mask=outside, need_weights=False)
            x = self.cross_norm(x + seen)
        query = x + names
        x = self.own_norm(x + self.own(query, query, x, need_weights=False)[0])
        return self.mlp_norm(x + self.mlp(x))


def _place(xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
    """Sines and cosines of the place within the sample's box."""
    if len(xyz) == 0:
        return xyz.new_zeros(0, 6 * _POSITION_OCTAVES)
    low, high = xyz.amin(dim=0), xyz.amax(dim=0)
    # One length for all axes keeps shapes; a single point has no size.
    size = (high - low).max().clamp_min(torch.finfo(xyz.dtype).tiny)
    angle = (xyz - low) / size * math.pi
    angles = torch.cat([angle * 2.0**octave for octave in range(_POSITION_OCTAVES)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
