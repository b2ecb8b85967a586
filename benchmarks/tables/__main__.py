"""`python -m benchmarks.tables NAME`: make one table of results; see the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from xmodal.atomic import locked
from xmodal.errors import XmodalError

NAMES = (
    "teacher",
    "world",
    "labels",
    "losses",
    "kitchen",
    "systems",
    "systems_kitchen",
    "store",
    "splat_fit",
    "splat_recovery",
    "splat_systems",
    "splat_fields",
    "motion",
    "sound",
    "recorded_systems",
    "modalities",
    "rooms",
    "films",
)
_WORK = Path("data/results-cache")


def main(argv: Sequence[str] | None = None) -> int:
    """Make one table, print it, and keep its record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--work", type=Path, default=_WORK, help="scenes and finished jobs")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    options = parser.parse_args(argv)
    from benchmarks.tables.record import plain_text, write_record

    module = importlib.import_module(f"benchmarks.tables.{options.name}")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        # Tables share jobs: two at once would do some of them twice, and time each other.
        with locked(work / ".lock"):
            made = module.make(work, options.jobs)
    except XmodalError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(plain_text(made))
    print(f"wrote {write_record(made)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
