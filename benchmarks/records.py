"""Records: what a measurement found and how to repeat it, one JSON file each in `results/`.

Every record carries the date, the command, the machine in words, the seed and the versions it was
made with. There are two kinds: a `JobRecord` of the main job on a scene, with the tables that
`xmodal eval` wrote and what each verb cost, and a `FigureRecord` with figures by name and tables
made for showing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from xmodal.atomic import write_text
from xmodal.errors import DataError
from xmodal.evaluate import Table
from xmodal.store import versions

RESULTS = Path(__file__).resolve().parent / "results"

JobName = Literal["kitchen", "kitchen_dino", "world"]
FigureName = Literal["apc_fusion", "speed"]
COMMANDS: Mapping[str, str] = {
    "kitchen": "python -m benchmarks.main_job kitchen",
    "kitchen_dino": "python -m benchmarks.main_job kitchen_dino",
    "world": "python -m benchmarks.main_job world",
    "apc_fusion": "python -m benchmarks.apc_fusion --record",
    "speed": "python -m benchmarks --record",
}
"""The command that makes each record; what a reader is told when it is missing."""

Cell = str | int | float | None
Figures = dict[str, str | int | float]
R = TypeVar("R", "JobRecord", "FigureRecord")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TableRecord(_Strict):
    """A table as in `xmodal.evaluate.Table`; None stands for NaN, which JSON lacks.

    `folded` tables are shown closed, for long lists.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False

    @model_validator(mode="after")
    def _rectangular(self) -> TableRecord:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns")
        return self

    def table(self) -> Table:
        """The table itself."""
        rows = tuple(tuple(math.nan if c is None else c for c in row) for row in self.rows)
        return Table(self.title, self.columns, rows)


class Cost(_Strict):
    """What one verb cost: wall seconds and peak memory in MB."""

    seconds: float
    peak_mb: float


class _Header(_Strict):
    """Where a measurement comes from.

    Attributes:
        date: Day it was made.
        command: What repeats it.
        machine: Where it was made, in words.
        seed: Seed of everything random; None where nothing is.
        versions: Versions of the packages that the findings depend on.
    """

    date: date
    command: str
    machine: str
    seed: int | None
    versions: dict[str, str]


class JobRecord(_Header):
    """Lift, train and eval on one scene.

    Attributes:
        name: Which; the file is `results/NAME.json`.
        teacher: As on the command line.
        frames: Views lifted.
        points: Points lifted to.
        student_cosine: Mean cosine of the student to its target.
        cost: Verb -> cost.
        tables: Name of a csv file that `eval` wrote -> its rows, the header first.
    """

    name: JobName
    teacher: str
    frames: int
    points: int
    student_cosine: float | None = None
    cost: dict[str, Cost]
    tables: dict[str, tuple[tuple[str, ...], ...]]

    def table(self, name: str, title: str) -> Table | None:
        """One of the tables, its numbers as numbers; None if there is none of that name."""
        rows = self.tables.get(name)
        if not rows:
            return None
        body = tuple(tuple(_number(cell) for cell in row) for row in rows[1:])
        return Table(title, rows[0], body)


class FigureRecord(_Header):
    """Figures by name, one set for each measured thing, and tables made for showing.

    The file is `results/NAME.json`.
    """

    name: FigureName
    tables: tuple[TableRecord, ...] = ()
    figures: tuple[Figures, ...] = ()


def shown(table: Table, *, folded: bool = False) -> TableRecord:
    """A table for a record."""
    rows = tuple(tuple(_cell(c) for c in row) for row in table.rows)
    return TableRecord(title=table.title, columns=table.columns, rows=rows, folded=folded)


def write_figures(
    name: FigureName,
    *,
    seed: int | None,
    tables: Sequence[TableRecord] = (),
    figures: Sequence[Figures] = (),
    folder: Path = RESULTS,
) -> Path:
    """Write `results/NAME.json` with today's date, this machine and the versions in use."""
    record = FigureRecord(
        name=name,
        date=datetime.now(tz=UTC).date(),
        command=COMMANDS[name],
        machine=machine(),
        seed=seed,
        versions=versions(),
        tables=tuple(tables),
        figures=tuple(figures),
    )
    path = folder / f"{name}.json"
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return path


def figures_of_today(name: FigureName, folder: Path = RESULTS) -> dict[str, Figures]:
    """Figures by name of a record that was written today with the versions in use; else none."""
    found = read_figures(name, folder)
    today = datetime.now(tz=UTC).date()
    if found is None or found.date != today or found.versions != versions():
        return {}
    return {str(figures["name"]): figures for figures in found.figures}


def read_job(name: JobName, folder: Path = RESULTS) -> JobRecord | None:
    """The record of a main job, None where there is none; errors as `read_figures`."""
    return _read(JobRecord, name, folder)


def read_figures(name: FigureName, folder: Path = RESULTS) -> FigureRecord | None:
    """A record of figures, None where there is none.

    Raises:
        DataError: If the file is damaged or is the record of something else.
    """
    return _read(FigureRecord, name, folder)


def _read(kind: type[R], name: str, folder: Path) -> R | None:
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    fix = f"make it again: {COMMANDS[name]}"
    try:
        record = kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            str(path), wanted="a record of a measurement", got=f"{place}: {first['msg']}", fix=fix
        ) from error
    if record.name != name:
        raise DataError(
            str(path), wanted=f"the record {name!r}", got=f"the record {record.name!r}", fix=fix
        )
    return record


def machine() -> str:
    """This machine in words: what a reader needs in order to compare times."""
    cores = len(os.sched_getaffinity(0))
    words = f"{cores} CPU core{'s' * (cores != 1)}"
    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


def _number(text: str) -> str | int | float:
    """The number that a cell of a csv file holds, or the cell."""
    if text == "-":
        return math.nan
    if len(text) > 1 and text[0] == "0" and text.isdigit():
        return text  # a frame's name
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _cell(value: str | int | float) -> Cell:
    return None if isinstance(value, float) and math.isnan(value) else value
