"""The op `fusion`: embeddings of several streams become one, whichever of them are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import check_shares
from xmodal.errors import DataError

if TYPE_CHECKING:
    from detectors.fusion import Fusion
    from xmodal.values import Embedding


@dataclass(frozen=True, kw_only=True)
class FusionOp:
    """One row for each recording from those of several streams.

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

    def __call__(self, net: Fusion, *streams: Embedding) -> Embedding:
        """Fused rows; differentiable.

        Raises:
            DataError: If the streams are of different numbers of recordings or windows.
        """
        import torch

        from xmodal.values import Embedding

        sizes = [len(stream.rows) for stream in streams]
        if len(set(sizes)) != 1:
            raise DataError(
                "op `fusion`",
                wanted="embeddings of the same recordings, one row for each",
                got=", ".join(f"{size} rows" for size in sizes),
                fix="let all streams of the edge give one row for each recording",
            )
        first = streams[0]
        present = torch.stack([stream.valid & (stream.weight > 0) for stream in streams], dim=1)
        fused = net([stream.rows for stream in streams], present)
        return Embedding(
            rows=fused.rows,
            valid=fused.valid,
            weight=fused.valid.to(fused.rows.dtype),
            offsets=first.offsets,
            time_s=first.time_s,
        )
