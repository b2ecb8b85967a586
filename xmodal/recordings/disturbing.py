"""Recordings with a stream missing, noisy, or of another recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from xmodal.errors import UsageError
from xmodal.graph.ports import Kind
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import STREAMS, Recording, Recordings
from xmodal.values import Audio, Imu, Skeleton, Video


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What is done to streams.

    Attributes:
        missing: Share of the recordings that a kind is taken away from, by kind.
        noise: Standard deviation of added noise by kind, in units of the stream's own spread.
        swapped: Kinds that come from another recording of the same set.
        seed: Of noise and swaps.
    """

    missing: Mapping[Kind, float] = field(default_factory=dict[Kind, float])
    noise: Mapping[Kind, float] = field(default_factory=dict[Kind, float])
    swapped: tuple[Kind, ...] = ()
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.missing or self.noise or self.swapped)

    def __str__(self) -> str:
        parts = [
            f"without {kind}" + (f" in {share:.0%}" if share < 1 else "")
            for kind, share in self.missing.items()
        ]
        parts += [f"{kind} with noise {share:g}" for kind, share in self.noise.items()]
        parts += [f"{kind} of another recording" for kind in self.swapped]
        return ", ".join(parts)


def disturbed(
    recordings: Recordings, disturbance: Disturbance, places: Sequence[int] | None = None
) -> Recordings:
    """The recordings as a disturbance leaves them; streams are still read when asked for.

    Where a kind is taken from a part of the recordings, those that would have nothing left keep it.

    Args:
        recordings: The recordings.
        disturbance: What is done to them.
        places: Only to these; all if None.

    Raises:
        UsageError: If a kind is named that they do not have, or nothing would be left.
    """
    named = {*disturbance.missing, *disturbance.noise, *disturbance.swapped}
    if unknown := sorted(named - set(recordings.kinds)):
        raise UsageError(
            "missing, noisy or swapped streams",
            wanted=f"streams among {', '.join(recordings.kinds)}",
            got=", ".join(unknown),
            fix="name a stream that the recordings have",
        )
    if disturbance.swapped and len(recordings) < 2:
        raise UsageError(
            f"swapped {', '.join(disturbance.swapped)}",
            wanted="two recordings at least, to swap streams between",
            got="one",
            fix="give more recordings",
        )
    order = np.random.default_rng(disturbance.seed).permutation(len(recordings))
    # A cyclic shift of a random order: nobody keeps his own, where there are two or more.
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    items: list[Recording] = []
    chosen = range(len(recordings)) if places is None else places
    lost = _lost(recordings, disturbance, chosen)
    touched = set(chosen)
    for index, item in enumerate(recordings.items):
        if index not in touched:
            items.append(item)
            continue
        their = recordings.items[other[index]]
        items.append(_changed(item, their, disturbance, index, lost.get(index, ())))
    if empty := [item.name for item in items if not item.kinds]:
        raise UsageError(
            f"missing {', '.join(disturbance.missing)}",
            wanted="at least one stream that is left in every recording",
            got=f"{len(empty)} with nothing else, such as {empty[0]}",
            fix="take away streams of recordings that have others too",
        )
    return replace(recordings, items=tuple(items))


def _changed(
    item: Recording, their: Recording, given: Disturbance, index: int, gone: Sequence[Kind]
) -> Recording:
    """One recording, disturbed."""
    streams: dict[Kind, Callable[[], Stream]] = dict(item.streams)
    for kind in given.swapped:
        if kind in streams and kind in their.streams:
            streams[kind] = their.streams[kind]
    for kind, share in given.noise.items():
        if kind == "grids" and item.maps:
            raise _no_noise("grids")
        if kind in streams:
            seed = [given.seed, index, STREAMS.index(kind)]
            streams[kind] = partial(_noisy, streams[kind], share, seed)
    for kind in gone:
        streams.pop(kind, None)
    maps = their.maps if "grids" in given.swapped else item.maps
    return replace(item, streams=streams, maps={} if "grids" in gone else maps)


def _lost(
    recordings: Recordings, disturbance: Disturbance, places: Sequence[int]
) -> dict[int, list[Kind]]:
    """Kinds that recordings lose, by number."""
    lost: dict[int, list[Kind]] = {}
    for kind, share in disturbance.missing.items():
        having = [i for i in places if kind in recordings.items[i].kinds]
        rng = np.random.default_rng([disturbance.seed, STREAMS.index(kind)])
        wanted = round(share * len(having))
        if share < 1:
            gone = {i: {kind, *lost.get(i, ())} for i in having}
            having = [i for i in having if recordings.items[i].kinds - gone[i]]
        for index in rng.permutation(having)[:wanted].tolist():
            lost.setdefault(int(index), []).append(kind)
    return lost


def _noisy(read: Callable[[], Stream], share: float, seed: list[int]) -> Stream:
    value = read()
    draw = np.random.default_rng(seed)

    def shaken(part: torch.Tensor) -> torch.Tensor:
        known = part[torch.isfinite(part)]
        spread = float(known.std()) if len(known) > 1 else 0.0
        noise = torch.from_numpy(draw.standard_normal(tuple(part.shape), dtype=np.float32))
        return part + share * spread * noise.to(part)

    changed: dict[str, Any] = {}
    if isinstance(value, Audio):
        changed["amplitudes"] = shaken(value.amplitudes)
    elif isinstance(value, Imu):
        changed = {
            "accel_mps2": shaken(value.accel_mps2),
            "gyro_radps": shaken(value.gyro_radps),
        }
    elif isinstance(value, Skeleton):
        changed["joints_m"] = shaken(value.joints_m)
    elif isinstance(value, Video):
        # A camera has no more than its 256 levels.
        changed["rgb"] = shaken(value.rgb.float()).round().clamp(0, 255).to(value.rgb.dtype)
    else:
        raise _no_noise(type(value).__name__.lower())
    return replace(value, **changed)


def _no_noise(kind: str) -> UsageError:
    return UsageError(
        "noise",
        wanted="audio, imu, skeleton or video",
        got=kind,
        fix="maps can be missing or swapped, not noisy",
    )
