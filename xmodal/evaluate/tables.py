"""Small tables that print, and write themselves as csv and markdown."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmodal.atomic import write_text


@dataclass(frozen=True)
class Table:
    """A small table that prints, and writes itself as csv and markdown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]

    def text(self) -> str:
        """Aligned plain text."""
        cells = [list(self.columns), *[[_cell(value) for value in row] for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *("  " + line for line in lines)])

    def markdown(self) -> str:
        """A markdown table under its title."""
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|" + "|".join(["---", *["---:"] * (len(self.columns) - 1)]) + "|"
        body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in self.rows]
        return "\n".join([f"**{self.title}**", "", head, rule, *body]) + "\n"

    def csv(self) -> str:
        """Comma-separated text with a header."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_cell(value, digits=6) for value in row] for row in self.rows])
        return out.getvalue()

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.csv and NAME.md."""
        write_text(folder / f"{name}.csv", self.csv())
        write_text(folder / f"{name}.md", self.markdown())


def _cell(value: str | float | int, digits: int = 3) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)
