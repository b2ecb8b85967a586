"""`python -m benchmarks.tables.show`: writes the recorded tables into the pages that show them.

A page shows the table NAME between `<!-- table:NAME:begin -->` and `<!-- table:NAME:end -->`;
nothing else is touched. `--check` changes nothing and exits 1 where a page is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables.record import FOLDER, read_record
from xmodal.atomic import write_text
from xmodal.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
_BEGIN = re.compile(r"<!-- table:([a-z_]+):begin -->")


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may show tables."""
    return [
        root / "README.md",
        root / "configs" / "README.md",
        *sorted((root / "docs").glob("*.md")),
    ]


def filled(page: str, folder: Path = FOLDER) -> str:
    """The page with every table between its markers.

    Raises:
        DataError: If a marker has no end, or a record is damaged.
    """
    for name in _BEGIN.findall(page):
        begin, end = f"<!-- table:{name}:begin -->", f"<!-- table:{name}:end -->"
        head, _, rest = page.partition(begin)
        _, found, tail = rest.partition(end)
        if not found or page.count(begin) != 1:
            raise DataError(
                "page of results",
                wanted=f"{begin} and after it {end}, each once",
                got="no end" if not found else f"{page.count(begin)} times {begin}",
                fix="put the two markers, each on a line of its own, where the table belongs",
            )
        made = read_record(name, folder)
        text = (
            f"Not measured yet: `make results TABLE={name}`." if made is None else made.markdown()
        )
        page = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Fill in all pages, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.show")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it would")
    options = parser.parse_args(argv)
    stale = False
    for path in pages():
        before = path.read_text(encoding="utf-8")
        try:
            after = filled(before)
        except DataError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return error.exit_code
        stale |= before != after
        if before != after and not options.check:
            write_text(path, after)
    return int(options.check and stale)


if __name__ == "__main__":
    raise SystemExit(main())
