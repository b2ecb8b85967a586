"""Sheets of runs over recordings: maps as they were recorded, and as every stream tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from xmodal.errors import DataError, UsageError
from xmodal.panels import ColourBar, Panel, RgbImage, sheet
from xmodal.recordings.recording import Recording
from xmodal.render import UNSEEN_GREY, heat
from xmodal.runs.recorded.judged import Judged, OpenedRecorded, own_recordings
from xmodal.runs.recorded.maps import taught_pairs
from xmodal.runs.recorded.material import open_data
from xmodal.values import Audio, Grids, Video

Colour = tuple[int, int, int]
Reals = NDArray[np.float32]

_SHOWN = 3
_WIDTH_PX = 320
# Told apart by hue and by brightness; the first two are for what is nothing in particular.
_COLOURS: tuple[Colour, ...] = (
    (190, 190, 190), (236, 226, 198), (141, 110, 79), (206, 226, 240), (214, 72, 54),
    (120, 80, 160), (236, 152, 42), (70, 150, 220), (226, 120, 170), (60, 140, 80),
    (242, 242, 238), (52, 58, 74), (0, 120, 120), (160, 190, 60), (90, 40, 40), (20, 20, 160),
)  # fmt: skip


@dataclass(frozen=True)
class _Column:
    """A recorded map, the students that tell it by the stream that they see, and its classes.

    `slices` of a volume stand one below another in the map.
    """

    truth: str
    told: Mapping[str, str]
    names: tuple[str, ...]
    slices: int


def maps_sheet(opened: OpenedRecorded, names: Sequence[str] = ()) -> RgbImage:
    """Recordings, each in rows: the recorded maps, and the maps that each stream tells.

    Args:
        opened: A run that learnt maps.
        names: Recordings; some of those held out, of different groups, if none.

    Raises:
        UsageError: If a recording is not one of those that were held out.
        DataError: If the run learnt no maps.
    """
    judged = own_recordings(opened, None)
    columns = _columns(opened, judged)
    items = {item.name: item for item in open_data(opened.spec.data).items}
    chosen = _chosen(judged, names)
    limits = _limits(judged, columns, chosen)
    legend: dict[str, Colour] = {}
    rows: list[list[Panel]] = []
    labels: list[str] = []
    for place in chosen:
        item = items[judged.names[place]]
        streams = list(dict.fromkeys(stream for one in columns for stream in one.told))
        for stream in ("", *streams):
            kind = opened.spec.graph.nodes[stream].kind if stream else "video"
            first = Panel(picture=_stream(item, kind), caption="" if stream else item.name)
            cells = [_cell(judged, place, one, stream, limits, legend) for one in columns]
            rows.append([first, *cells])
            labels.append(stream or "recorded")
    depths = limits is not None
    bar = ColourBar(low=f"{limits[1]:.1f} m", high=f"{limits[0]:.1f} m") if depths else None
    heads = ["what was given", *(one.truth for one in columns)]
    return sheet(rows, heads=heads, labels=labels, bar=bar, legend=legend, width_px=_WIDTH_PX)


def _columns(opened: OpenedRecorded, judged: Judged) -> list[_Column]:
    graph = opened.spec.graph
    told: dict[str, dict[str, str]] = {}
    slices: dict[str, int] = {}
    for student, truth in taught_pairs(opened, judged):
        edge = graph.students()[student.partition(".")[0]]
        told.setdefault(truth, {})[edge.sources[0]] = student
        slices[truth] = getattr(edge.op, "slices", 1)
    if not told:
        raise DataError(
            str(opened.run.path),
            wanted="a student of dense maps, and the maps of these recordings",
            got=f"rows of {', '.join(judged.rows)}",
            fix="draw a run whose graph has a `grid_decoder` or a `panorama_net`",
        )
    made = {edge.target: edge.op for edge in graph.order()}
    return [
        _Column(truth, by, tuple(getattr(made.get(truth), "names", ())), slices[truth])
        for truth, by in told.items()
    ]


def _chosen(judged: Judged, names: Sequence[str]) -> list[int]:
    if wrong := [name for name in names if name not in judged.names]:
        raise UsageError(
            f"--frame {wrong[0]}",
            wanted=f"a recording that was held out, such as {judged.names[0]}",
            got=wrong[0],
            fix="look at RUN/recordings.csv",
        )
    if names:
        return [judged.names.index(name) for name in names]
    firsts = dict(zip(reversed(judged.groups), reversed(range(len(judged))), strict=True))
    return sorted(firsts.values())[:_SHOWN]


def _map(judged: Judged, source: str, place: int) -> tuple[Reals, Bool[NDArray[Any], "H W"]]:
    """One map [H, W, C], and which of its cells are known."""
    value = judged.rows[source]
    assert isinstance(value, Grids), "pairs are of maps"
    height, width = value.grid_hw
    part = slice(place * height * width, (place + 1) * height * width)
    known = (value.valid & (value.weight > 0))[part].numpy().reshape(height, width)
    rows = value.rows[part].float().numpy()
    return rows.reshape(height, width, -1), known


def _limits(
    judged: Judged, columns: Sequence[_Column], places: Sequence[int]
) -> tuple[float, float] | None:
    """Least and largest recorded depth of what is drawn; None without depths."""
    parts: list[Float32[Reals, " N"]] = []
    for one in (c for c in columns if not c.names):
        for place in places:
            rows, known = _map(judged, one.truth, place)
            parts.append(rows[..., 0][known])
    every = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return (float(every.min()), float(every.max())) if len(every) else None


def _cell(
    judged: Judged,
    place: int,
    column: _Column,
    stream: str,
    limits: tuple[float, float] | None,
    legend: dict[str, Colour],
) -> Panel:
    """One map as colours, with how wrong it is; grey where a stream does not tell it."""
    truth, known = _map(judged, column.truth, place)
    source = column.told.get(stream) if stream else column.truth
    if source is None:
        return Panel(picture=_enlarged(np.full((*known.shape, 3), 255, np.uint8), column.slices))
    rows, sure = _map(judged, source, place)
    caption = ""
    if not column.names:
        near, far = limits or (0.0, 1.0)
        share = (far - rows[..., 0]) / max(far - near, 1e-6)
        colours = heat(np.where(sure, share, np.nan).astype(np.float32), top=1.0)
        if stream:
            error = (rows - truth)[..., 0][known & sure]
            caption = f"RMSE {np.sqrt(np.mean(error**2)):.2f} m"
        return Panel(picture=_enlarged(colours, column.slices), caption=caption)
    answer, right = rows.argmax(axis=2), truth.argmax(axis=2)
    colours = np.full((*known.shape, 3), UNSEEN_GREY, np.uint8)
    for number, name in enumerate(column.names):
        here = sure & (answer == number)
        if here.any():
            legend.setdefault(name, _COLOURS[_colour_of(number, column.names)])
            colours[here] = legend[name]
    if stream:
        caption = f"{np.mean((answer == right)[known]):.0%} of cells right"
    return Panel(picture=_enlarged(colours, column.slices), caption=caption)


def _colour_of(number: int, names: Sequence[str]) -> int:
    """Pairs of classes, such as free and occupied, have colours of their own."""
    return (10 + number if len(names) == 2 else number) % len(_COLOURS)


def _enlarged(colours: RgbImage, slices: int) -> RgbImage:
    """Cells as squares, as wide as a column; what is as high as wide stands in its middle."""
    if slices > 1:
        colours = _side_by_side(colours, slices)
    height, width = colours.shape[:2]
    if height == width:
        colours = np.pad(
            colours, ((0, 0), (width // 2, width - width // 2), (0, 0)), constant_values=255
        )
    times = max(1, _WIDTH_PX // colours.shape[1])
    return colours.repeat(times, axis=0).repeat(times, axis=1)


def _side_by_side(colours: RgbImage, slices: int) -> RgbImage:
    """Slices of a volume in two rows, the lowest first, a white line between them."""
    parts = list(colours.reshape(slices, -1, *colours.shape[1:]))
    if slices % 2:
        parts.append(np.full_like(parts[0], 255))
    framed = [np.pad(p, ((0, 1), (0, 1), (0, 0)), constant_values=255) for p in parts]
    half = len(framed) // 2
    return np.vstack([np.hstack(framed[:half]), np.hstack(framed[half:])])[:-1, :-1]


def _stream(item: Recording, kind: str) -> RgbImage:
    """What a recording shows of a stream: its first frame, or loudness by pitch and time."""
    blank = np.full((_WIDTH_PX // 2, _WIDTH_PX, 3), 255, np.uint8)
    if kind not in ("video", "audio"):
        return blank
    value = item.read(kind)
    if isinstance(value, Video) and len(value.rgb):
        return value.rgb[0].movedim(0, 2).numpy()
    if isinstance(value, Audio):
        return _heard(value)
    return blank


def _heard(sound: Audio) -> RgbImage:
    from lifting.signals.spectra import LogMel

    rate_hz = float(sound.rate_hz)
    spectra = LogMel(
        rate_hz=rate_hz,
        window_s=0.016,
        hop_s=0.004,
        num_mels=48,
        low_hz=60.0,
        high_hz=0.48 * rate_hz,
        power=1,
        floor=1e-3,
        scale="htk",
        norm=None,
    )
    loud = spectra(sound.amplitudes[:1])[0].numpy()[::-1]
    share = (loud - loud.min()) / max(float(loud.max() - loud.min()), 1e-6)
    picture = heat(share.astype(np.float32), top=1.0)
    rows = np.linspace(0, len(picture) - 1, _WIDTH_PX // 2).round().astype(int)
    columns = np.linspace(0, picture.shape[1] - 1, _WIDTH_PX).round().astype(int)
    return picture[rows][:, columns]
