"""Long recordings as many short ones: all streams cut at the same moments of one clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.ragged import Stream, take_samples
from xmodal.recordings.recording import Recording
from xmodal.recordings.spans import Span, common_span
from xmodal.values import Audio, Grids

# Streams that are kept while pieces are cut from them; the last one is kept whatever its size.
_KEPT_BYTES = 1 << 30
# Containers round; a piece may lack so much at its end.
_SLACK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How recordings are cut.

    Attributes:
        cut_s: Length of a piece.
        hop_s: Time from the beginning of one piece to that of the next.
    """

    cut_s: float
    hop_s: float


@dataclass(eq=False)
class KeptStreams:
    """What was read lately, so that the pieces of a film are cut from one reading of it."""

    _kept: OrderedDict[tuple[str, Kind], Stream] = field(
        default_factory=OrderedDict[tuple[str, Kind], Stream]
    )

    def read(self, name: str, kind: Kind, reader: Callable[[], Stream]) -> Stream:
        """A stream, read unless it is kept; what was used longest ago goes.

        Args:
            name: Of the recording.
            kind: Of its stream.
            reader: Reads it.
        """
        key = (name, kind)
        if key not in self._kept:
            self._kept[key] = reader()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[key]


def pieces(
    item: Recording, spans: Mapping[Kind, Span], how: Cutting, kept: KeptStreams
) -> list[Recording]:
    """The pieces of one recording, from the moment at which all its streams are there.

    They are named after how far they lie behind that moment, `walk@2.5`, keep its label, text and
    group, and the clock of its streams. A rest that is shorter than a piece is dropped.

    Args:
        item: The recording.
        spans: From when to when each of its streams is there.
        how: Lengths.
        kept: Where whole streams are kept while they are cut.

    Raises:
        DataError: If its streams do not overlap, or for less than one piece.
    """
    where = f"recording {item.name}"
    start_s, end_s = common_span(dict(spans), where)
    num = int((end_s - start_s - how.cut_s + _SLACK_S) / how.hop_s) + 1
    if end_s - start_s + _SLACK_S < how.cut_s:
        raise DataError(
            where,
            wanted=f"{how.cut_s:g} s or more to cut a piece from",
            got=f"{end_s - start_s:.3f} s in which {' and '.join(sorted(spans))} are there",
            fix="set a smaller data.cut_s, or take the recording away",
        )
    return [_piece(item, start_s, k * how.hop_s, how.cut_s, kept) for k in range(num)]


def _piece(
    item: Recording, start_s: float, after_s: float, cut_s: float, kept: KeptStreams
) -> Recording:
    first_s, end_s = start_s + after_s, start_s + after_s + cut_s
    after = f"{after_s:.3f}".rstrip("0")
    return replace(
        item,
        name=f"{item.name}@{after}{'0' if after.endswith('.') else ''}",
        streams={
            kind: partial(_read, kept, item.name, kind, reader, (first_s, end_s))
            for kind, reader in item.streams.items()
        },
        made=f"{item.made} {first_s:.6f} to {end_s:.6f} s".strip(),
    )


def _read(
    kept: KeptStreams, name: str, kind: Kind, reader: Callable[[], Stream], span_s: Span
) -> Stream:
    return within(kept.read(name, kind, reader), span_s)


def within(stream: Stream, span_s: Span) -> Stream:
    """What one recording's stream holds from one moment up to another; the clock stays.

    Args:
        stream: Of one recording, with a clock.
        span_s: Start, which is in it, and end, which is not.
    """
    start_s, end_s = span_s
    if isinstance(stream, Grids):
        return stream
    if isinstance(stream, Audio):
        num = stream.amplitudes.shape[1]
        began_s = 0.0 if stream.start_s is None else float(stream.start_s[0])
        first, end = (
            min(max(round((t - began_s) * stream.rate_hz), 0), num) for t in (start_s, end_s)
        )
        # A copy: the whole sound is not to live as long as its pieces.
        return replace(
            stream,
            amplitudes=stream.amplitudes[:, first:end].clone(),
            offsets=torch.tensor([0, end - first]),
            start_s=torch.tensor([began_s + first / stream.rate_hz], dtype=torch.float64),
        )
    inside = ((stream.time_s >= start_s) & (stream.time_s < end_s)).nonzero().squeeze(1)
    first = int(inside[0]) if len(inside) else 0
    # The rows of a stream of one recording, as a stream of one recording.
    offsets = torch.tensor([first, first + len(inside)])
    return take_samples(replace(stream, offsets=offsets), [0])


def _size(stream: Stream) -> int:
    return sum(v.nbytes for v in vars(stream).values() if isinstance(v, torch.Tensor))
