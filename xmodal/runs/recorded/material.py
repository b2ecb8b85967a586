"""The recordings of a run, what each serves for, and their table in the RUN folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from xmodal.atomic import write_text
from xmodal.config.run_parts import OF_FILMS, Data, Split, Splits, StreamKind
from xmodal.config.runfile import RunFile
from xmodal.errors import ConfigError, DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.clocks import nothing_to_align
from xmodal.recordings.disturbing import Disturbance, disturbed
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.recording import Recordings, together
from xmodal.store import Run

TABLE = "recordings.csv"
_COLUMNS = ("name", "group", "label", "split", "duration_s")
_SHOWN = 6


@dataclass(frozen=True, eq=False)
class Material:
    """Recordings, and the split that each is in."""

    recordings: Recordings
    splits: tuple[Split, ...]

    def places(self, *splits: Split) -> list[int]:
        """Numbers of the recordings of some splits."""
        return [i for i, split in enumerate(self.splits) if split in splits]

    @property
    def held_out(self) -> list[int]:
        """Recordings that were not trained on: those to test on, or else to validate on."""
        return self.places("test") or self.places("val")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the table of a run."""

    name: str
    group: str
    label: str
    split: str
    duration_s: float


def open_material(spec: RunFile) -> Material:
    """Open the recordings of a run file and look up its splits.

    Raises:
        DataError: If there are none, or they are damaged.
        ConfigError: If splits name what there is not, leave nothing to train on, or tear a group.
    """
    recordings = open_data(spec.data)
    _check_patterns(spec.splits, recordings)
    splits: tuple[Split, ...] = tuple(spec.splits.of(name) for name in recordings.names)
    if "train" not in splits:
        raise ConfigError(
            f"run {spec.name}, splits",
            wanted="at least one recording to train on",
            got=f"all {len(splits)} held back",
            fix="hold fewer recordings back",
        )
    if not spec.splits.shared_groups:
        _check_groups(spec.name, recordings, splits)
    given = Disturbance(
        missing=_above_zero(spec.data.lacking), noise=_above_zero(spec.data.noisy), seed=spec.seed
    )
    if given:
        train = [i for i, split in enumerate(splits) if split == "train"]
        recordings = disturbed(recordings, given, train)
    return Material(recordings, splits)


def _above_zero(shares: Mapping[StreamKind, float]) -> dict[Kind, float]:
    return {kind: share for kind, share in shares.items() if share > 0}


def open_data(data: Data) -> Recordings:
    """The recordings of one folder or several."""
    folders = data.scenes
    if not folders:
        raise DataError(
            "data.scene",
            wanted="a folder of recordings",
            got=f"none that matches {data.scene}",
            fix="check the path; paths start where the command is run",
        )
    films: dict[str, float | int | None] = {}
    if data.format == "clips":
        films = {key: getattr(data, key) for key in ("max_side_px", *OF_FILMS)}
    opened = [open_recordings(folder, data.format, **films) for folder in folders]
    if data.align_within_s and not any(item.clocks for part in opened for item in part.items):
        held = {item.name: sorted(item.kinds) for part in opened for item in part.items}
        raise nothing_to_align("data.align_within_s", held)
    return opened[0] if len(opened) == 1 else together("+".join(p.name for p in folders), opened)


def as_test(spec: RunFile, folder: Path) -> RunFile:
    """The run file with another folder, all of it to be measured on."""
    data = replace(spec.data, scene=str(folder))
    return replace(spec, data=data, splits=Splits(test=("*",), shared_groups=True))


def _check_patterns(splits: Splits, recordings: Recordings) -> None:
    for split in ("val", "test"):
        for pattern in getattr(splits, split):
            if not any(fnmatchcase(name, pattern) for name in recordings.names):
                shown = ", ".join(recordings.names[:_SHOWN])
                raise ConfigError(
                    f"splits.{split}: {pattern}",
                    wanted=f"a pattern over names of recordings, such as {shown}, ...",
                    got="one that matches none of them",
                    fix="correct the pattern, or drop it",
                )


def _check_groups(run: str, recordings: Recordings, splits: Sequence[Split]) -> None:
    of_group: dict[str, set[Split]] = {}
    for item, split in zip(recordings.items, splits, strict=True):
        of_group.setdefault(item.group, set()).add(split)
    torn = [group for group, found in of_group.items() if len(found) > 1]
    if torn:
        shown = ", ".join(torn[:_SHOWN]) + (", ..." if len(torn) > _SHOWN else "")
        raise ConfigError(
            f"run {run}, splits",
            wanted="each group (subject, fold, film) in one split",
            got=f"recordings of {shown} in several",
            fix="split by groups, or write `shared_groups: true` if you mean it",
        )


def write_table(run: Run, material: Material, durations_s: Sequence[float]) -> None:
    """Write `recordings.csv`, in the row order of every store of the run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    rows = zip(material.recordings.items, material.splits, durations_s, strict=True)
    for item, split, seconds in rows:
        writer.writerow([item.name, item.group, item.label or "", split, f"{seconds:.3f}"])
    write_text(run.path / TABLE, out.getvalue())


def read_table(run: Run) -> list[Listed]:
    """The recordings of a run.

    Raises:
        DataError: If the table is missing or was changed.
    """
    path = run.path / TABLE
    if not path.is_file():
        raise DataError(
            str(path),
            wanted="the table of a run over recordings",
            got="no such file",
            fix=f"make the run again: xmodal train {run.runfile} --out RUN",
        )
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            Listed(
                name=row["name"],
                group=row["group"],
                label=row["label"],
                split=row["split"],
                duration_s=float(row["duration_s"]),
            )
            for row in rows
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            str(path),
            wanted=f"the columns {', '.join(_COLUMNS)}",
            got=str(error),
            fix="restore the file; `xmodal verify` says what else was changed",
        ) from error


def is_recorded(run: Run) -> bool:
    """Whether a RUN folder is of recordings."""
    return (run.path / TABLE).is_file()
