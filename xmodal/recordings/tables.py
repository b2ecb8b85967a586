"""Tables that people write beside their recordings, as csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from xmodal.errors import DataError


def read_rows(path: Path, needed: Sequence[str], layout: str) -> list[dict[str, str]]:
    """The rows of a table with a header, blanks around cells taken off; empty cells are "".

    Args:
        path: The table, in UTF-8, with or without the mark that spreadsheets put in front.
        needed: Columns that every row must have something in.
        layout: What the table should be like, for messages.

    Raises:
        DataError: If it is no such table, or a row has more cells than the header or lacks one
            that is needed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _wrong(str(path), layout, str(error)[:200]) from error
    if not rows or not set(needed) <= set(header):
        got = f"columns {', '.join(header)[:200]}" if header else "nothing"
        raise _wrong(str(path), layout, got if rows or not header else f"{got}, without a row")
    for line, row in rows:
        if "" in row.keys() - set(header):
            raise _wrong(f"{path}, line {line}", f"{len(header)} cells, as the header has", "more")
        if lacking := [name for name in needed if not row[name].strip()]:
            raise _wrong(f"{path}, line {line}", f"a cell for {lacking[0]}", "an empty one")
    return [{name: cell.strip() for name, cell in row.items()} for _, row in rows]


def _wrong(where: str, wanted: str, got: str) -> DataError:
    return DataError(
        where,
        wanted=wanted,
        got=got,
        fix='correct the table; cells with commas stand in quotes: "walk, then run"',
    )
