"""The op `fusion`: rows or maps of several streams become one, whichever of them are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import check_shares
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.fusion import Fusion
    from xmodal.values import Embedding, Grids


@dataclass(frozen=True, kw_only=True)
class FusionOp:
    """One row, or one map, for each recording from those of several streams.

    Maps are of one grid and fused cell by cell, with the same weights in every cell.

    Attributes:
        how: `mean`: all that are there alike. `gated`: a gate that looks at all of them says how
            much of each. `confidence`: the surer a stream's vote, the larger its share; rows are
            class logits (QMF). `router`: the best `top` streams of each recording.
        drop: While training, each stream that is there is hidden with this chance; one always
            stays.
        top: Streams that a router takes.

    Source:
        See `detectors.fusion.Fusion`.
    """

    op: Literal["fusion"] = "fusion"
    how: Literal["mean", "gated", "confidence", "router"] = "gated"
    drop: float = 0.0
    top: int = 1

    def __post_init__(self) -> None:
        check_shares(drop=self.drop)
        if self.top < 1 or (self.top > 1 and self.how != "router"):
            raise ValueError(
                f"top ({self.top}) must be at least 1, and has an effect with `how: router` only"
            )

    def build(
        self,
        *,
        channels: int,
        source_channels: tuple[int, ...],
        space: Literal["unit", "simplex", "raw"] | None = None,
    ) -> Fusion:
        """A new module with random weights.

        Args:
            channels: Width of the fused rows.
            source_channels: Width of each stream's rows.
            space: Space of the fused rows.

        Raises:
            DataError: If a router is to take more streams than there are.
        """
        from detectors.fusion import Fusion

        if self.top > len(source_channels):
            raise DataError(
                "op `fusion`",
                wanted=f"at most {len(source_channels)} streams to take, as the edge has",
                got=f"top: {self.top}",
                fix="write a smaller top, or add sources to the arrow",
            )
        return Fusion(
            source_channels,
            channels,
            how=self.how,
            space=space or "raw",
            drop=self.drop,
            top=self.top,
        )

    def __call__(self, net: Fusion, *streams: Embedding | Grids) -> Embedding | Grids:
        """Fused rows; differentiable.

        Raises:
            DataError: If the streams are of different numbers of recordings or windows, or maps of
                different grids.
        """
        from dataclasses import replace

        import torch

        from xmodal.values import Grids

        first = _alike(streams)
        present = torch.stack([stream.valid & (stream.weight > 0) for stream in streams], dim=1)
        cells = _sample(first) if isinstance(first, Grids) else None
        fused = net([stream.rows for stream in streams], present, cells)
        weight = fused.valid.to(fused.rows.dtype)
        given = replace(first, rows=fused.rows, valid=fused.valid, weight=weight)
        return replace(given, maps=None) if isinstance(given, Grids) else given

    def responses(self, net: Fusion, *streams: Embedding | Grids) -> tuple[Embedding | Grids, ...]:
        """What each stream adds to the fused rows; they add up to them. Differentiable.

        Returns:
            Rows or maps of each stream, valid where the stream is there.

        Raises:
            DataError: As a call.
        """
        from dataclasses import replace

        import torch

        from xmodal.values import Grids

        first = _alike(streams)
        present = torch.stack([stream.valid & (stream.weight > 0) for stream in streams], dim=1)
        cells = _sample(first) if isinstance(first, Grids) else None
        parts, there = net.responses([stream.rows for stream in streams], present, cells)
        given = [
            replace(first, rows=part, valid=mark, weight=mark.to(part.dtype))
            for part, mark in zip(parts, there.T, strict=True)
        ]
        return tuple(replace(v, maps=None) if isinstance(v, Grids) else v for v in given)


def _alike(streams: tuple[Embedding | Grids, ...]) -> Embedding | Grids:
    """The first of streams that fit together."""
    from xmodal.values import Grids

    first = streams[0]
    sizes = [len(stream.rows) for stream in streams]
    grids = [stream.grid_hw if isinstance(stream, Grids) else None for stream in streams]
    if len(set(grids)) != 1:
        raise DataError(
            "op `fusion`",
            wanted="rows of each stream, or maps of each of them on one grid",
            got=", ".join("rows" if hw is None else f"{hw[0]} x {hw[1]} cells" for hw in grids),
            fix="give all sources of the edge the same `grid_hw`",
        )
    if len(set(sizes)) != 1:
        raise DataError(
            "op `fusion`",
            wanted="embeddings of the same recordings, one row for each",
            got=", ".join(f"{size} rows" for size in sizes),
            fix="let all streams of the edge give one row for each recording",
        )
    return first


def _sample(grids: Grids) -> Tensor:
    """Which map each cell is of."""
    import torch

    sizes = grids.offsets.diff().to(grids.rows.device)
    index = torch.arange(len(sizes), device=grids.rows.device)
    return index.repeat_interleave(sizes, output_size=len(grids.rows))
