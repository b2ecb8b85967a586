"""What a table leaves behind: `benchmarks/results/tables/NAME.json`, and its markdown."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.records import RESULTS, TableRecord, machine, shown
from xmodal.atomic import write_text
from xmodal.errors import DataError
from xmodal.evaluate import Table
from xmodal.store import versions

FOLDER = RESULTS / "tables"
Size = str | int | float


class ResultRecord(BaseModel):
    """One table of results and how it came about.

    Attributes:
        name: Which; the file is `NAME.json`.
        date: Day it was made.
        command: What makes it again.
        machine: Where, in words.
        seeds: Seeds of the students in it.
        versions: Of the packages that the numbers depend on.
        sizes: Scenes, points, steps: whatever says how large the experiment is.
        job_seconds: Time of all its jobs together, cached ones as they took when they were run.
        tables: What is shown.
        notes: Sentences that stand under it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    date: datetime.date
    command: str
    machine: str
    seeds: tuple[int, ...]
    versions: dict[str, str]
    sizes: dict[str, Size]
    job_seconds: float
    tables: tuple[TableRecord, ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Tables, notes, and one line on how they were made."""
        sizes = ", ".join(f"{value} {key}" for key, value in self.sizes.items())
        seeds = f", seeds {', '.join(map(str, self.seeds))}" if self.seeds else ""
        source = (
            f"<sub>{sizes}{seeds}. {self.date}, {self.machine}, torch {self.versions['torch']}, "
            f"{self.job_seconds / 60:.0f} min of jobs: `{self.command}`</sub>"
        )
        parts = [_markdown(entry) for entry in self.tables]
        return "\n\n".join([*parts, *self.notes, source])


def record(
    name: str,
    tables: Sequence[TableRecord],
    results: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int] = (),
    sizes: Mapping[str, Size] | None = None,
    notes: Sequence[str] = (),
) -> ResultRecord:
    """The record of a table that was made just now from the results of its jobs."""
    return ResultRecord(
        name=name,
        date=datetime.datetime.now(tz=datetime.UTC).date(),
        command=f"make results TABLE={name}",
        machine=machine(),
        seeds=tuple(seeds),
        versions=versions(),
        sizes=dict(sizes or {}),
        job_seconds=round(sum(float(r.get("seconds", 0)) for r in results.values()), 1),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def write_record(made: ResultRecord, folder: Path = FOLDER) -> Path:
    """Write `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.name}.json"
    write_text(path, made.model_dump_json(indent=1) + "\n")
    return path


def read_record(name: str, folder: Path = FOLDER) -> ResultRecord | None:
    """A record, None where there is none.

    Raises:
        DataError: If it is damaged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return ResultRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            str(path),
            wanted="a table of results",
            got=str(error.errors()[0]["msg"]),
            fix=f"make it again: make results TABLE={name}",
        ) from error


def plain_text(made: ResultRecord) -> str:
    """The record for a terminal."""
    sizes = ", ".join(f"{value} {key}" for key, value in made.sizes.items())
    parts = [entry.table().text() for entry in made.tables]
    took = f"{made.job_seconds:.0f} s of jobs, {time.strftime('%H:%M:%S')}"
    return "\n\n".join([*parts, *made.notes, f"{sizes}; seeds {list(made.seeds)}; {took}"])


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> TableRecord:
    """A table to show."""
    return shown(Table(title, tuple(columns), tuple(tuple(row) for row in rows)))


def _markdown(entry: TableRecord) -> str:
    text = entry.table().markdown().strip()
    if not entry.folded:
        return text
    title, _, body = text.partition("\n")
    return f"<details><summary>{title.strip('*')}</summary>\n\n{body.strip()}\n\n</details>"
