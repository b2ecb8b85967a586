"""Recordings: samples with named streams, maybe a class, and a group that they share fate with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xmodal.atomic import sha256_file
from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.clocks import ClockLag
from xmodal.recordings.ragged import Stream, empty_like, join
from xmodal.values import Audio, Grids, Imu, Labels, Skeleton, Text, Value

# What a recording can hold; the first that it has tells how long it is.
STREAMS: tuple[Kind, ...] = ("audio", "imu", "skeleton", "video", "grids")
# A name goes into files and patterns of splits.
_NAME = re.compile(r"[^\s,/\\*?\[\]]+")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One sample.

    Attributes:
        name: Unique in its data set; splits are patterns over names.
        group: What recordings have in common that a split must not tear apart: the subject, the
            fold, the film.
        label: Its class; None where it is not known.
        streams: What it holds, by kind; a stream is read when it is called.
        text: What was said or written of it.
        files: What the streams are read from.
        maps: Dense maps of it, where there are several, by name; a graph's node of kind `grids`
            reads the map of its own name.
        made: How it was made of its files, where it is not all of them as they are.
        clocks: Lags between its files that were looked for.
    """

    name: str
    group: str
    streams: Mapping[Kind, Callable[[], Stream]]
    label: str | None = None
    text: str | None = None
    files: tuple[Path, ...] = ()
    maps: Mapping[str, Callable[[], Grids]] = field(default_factory=dict[str, Callable[[], Grids]])
    made: str = ""
    clocks: tuple[ClockLag, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of its streams."""
        maps: tuple[Kind, ...] = ("grids",) if self.maps else ()
        return frozenset((*self.streams, *maps))

    def read(self, kind: Kind, name: str = "") -> Stream | None:
        """A stream of one sample, checked; None where there is none.

        Args:
            kind: Which stream.
            name: Of grids, which map, where the sample has several.

        Raises:
            DataError: If it is damaged, or holds numbers that are not finite.
        """
        if kind == "grids" and name in self.maps:
            return self.maps[name]()
        if kind not in self.streams:
            return None
        value = self.streams[kind]()
        _check_finite(self.name, kind, value)
        return value


@dataclass(frozen=True, kw_only=True, eq=False)
class Recordings:
    """A data set of recordings, in a fixed order.

    Attributes:
        name: Of the data set.
        items: The recordings.
        classes: All classes, in the order of their numbers; empty where there are no labels.

    Raises:
        DataError: If there are none, names are double or unfit, one holds nothing, or a label is
            no class.
    """

    name: str
    items: tuple[Recording, ...]
    classes: tuple[str, ...] = ()
    _index: Mapping[str, int] = field(init=False, repr=False, default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if not self.items:
            raise self._unfit("at least one recording", "none", "check the folder and its format")
        names = [item.name for item in self.items]
        object.__setattr__(self, "_index", {name: i for i, name in enumerate(names)})
        self._refuse(
            [name for name in names if _NAME.fullmatch(name) is None],
            "names without blanks, commas, slashes and signs of patterns",
            "rename the files",
        )
        twice = sorted({name for name in names if names.count(name) > 1}) if self._double else []
        self._refuse(twice, "recordings with different names", "rename one of each")
        self._refuse(
            [item.name for item in self.items if not item.kinds],
            "at least one stream in every recording",
            "add its files, or drop it from the table of labels",
        )
        known = set(self.classes)
        unknown = sorted({i.label for i in self.items if i.label is not None} - known)
        self._refuse(unknown, f"classes among {self._classes_shown}", "correct the labels")

    @property
    def _double(self) -> bool:
        return len(self._index) < len(self.items)

    @property
    def _classes_shown(self) -> str:
        return ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")

    def _refuse(self, bad: Sequence[str], wanted: str, fix: str) -> None:
        if bad:
            shown = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
            raise self._unfit(wanted, shown, fix)

    def _unfit(self, wanted: str, got: str, fix: str) -> DataError:
        return DataError(f"recordings {self.name}", wanted=wanted, got=got, fix=fix)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(item.name for item in self.items)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What at least one recording brings."""
        held: list[Kind] = [k for k in STREAMS if any(k in item.kinds for item in self.items)]
        if any(item.label is not None for item in self.items):
            held.append("labels")
        if any(item.text is not None for item in self.items):
            held.append("text")
        return tuple(held)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of dense maps that at least one recording has."""
        return tuple(dict.fromkeys(name for item in self.items for name in item.maps))

    @property
    def labels(self) -> Labels:
        """The class of every recording."""
        number = {name: i for i, name in enumerate(self.classes)}
        ids = [-1 if item.label is None else number[item.label] for item in self.items]
        return Labels(ids=torch.tensor(ids, dtype=torch.int64), classes=self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that it holds: names, groups, labels and the bytes of its files."""
        hashed = {path: sha256_file(path) for path in {p for i in self.items for p in i.files}}
        listed = [
            [i.name, i.group, i.label, i.text, [hashed[path] for path in i.files]]
            + ([i.made] if i.made else [])
            for i in self.items
        ]
        text = json.dumps([self.classes, listed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def take(self, places: Sequence[int]) -> Recordings:
        """Some of the recordings, with all classes.

        Raises:
            DataError: If these are none.
        """
        return Recordings(
            name=self.name, items=tuple(self.items[i] for i in places), classes=self.classes
        )


def duration_s(value: Stream) -> float:
    """Length of a stream of one recording, seconds; NaN where it has no clock."""
    if isinstance(value, Audio):
        return value.amplitudes.shape[1] / value.rate_hz
    if isinstance(value, Grids):
        return float("nan")
    return float(value.time_s[-1] - value.time_s[0]) if len(value.time_s) else 0.0


def together(name: str, parts: Sequence[Recordings]) -> Recordings:
    """Several data sets as one; classes keep the order in which they come.

    Raises:
        DataError: If there are none, or two recordings have the same name.
    """
    classes = tuple(dict.fromkeys(c for part in parts for c in part.classes))
    items = tuple(item for part in parts for item in part.items)
    return Recordings(name=name, items=items, classes=classes)


def gather(recordings: Recordings, kind: Kind) -> Value:
    """A stream, the labels or the texts of all recordings as one ragged value.

    A recording without the stream has an empty range.

    Raises:
        DataError: If none has it, or they differ in rate, joints or size.
    """
    if kind == "labels":
        return recordings.labels
    if kind == "text":
        return Text(texts=tuple(item.text or "" for item in recordings.items))
    values: list[Any] = [item.read(kind) for item in recordings.items]
    like = next((value for value in values if value is not None), None)
    if like is None:
        held = ", ".join(recordings.kinds)
        raise DataError(
            f"recordings {recordings.name}",
            wanted=f"at least one recording with {kind}",
            got=f"recordings of {held}",
            fix="choose data with this sensor, or a graph without it",
        )
    parts = [empty_like(like) if value is None else value for value in values]
    return join(parts, f"recordings {recordings.name}")


def _check_finite(name: str, kind: Kind, value: Stream) -> None:
    if isinstance(value, Audio):
        parts = {"amplitudes": value.amplitudes}
    elif isinstance(value, Imu):
        parts = {"accelerations": value.accel_mps2, "rates of turn": value.gyro_radps}
        parts["times"] = value.time_s
    elif isinstance(value, Skeleton):
        parts = {"times": value.time_s}  # joints may be NaN: not tracked
    else:
        return
    for what, tensor in parts.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise DataError(
                f"recording {name}, {kind}",
                wanted=f"finite {what}",
                got=f"{bad} that are NaN or infinite",
                fix="repair the file, or leave this recording out",
            )
