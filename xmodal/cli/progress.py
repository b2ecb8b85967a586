"""Progress on the terminal: a bar with rate and time left, or one line every 10 s without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

Report = Callable[[int, int], None]

_QUIET_INTERVAL_S = 10.0


@contextmanager
def progress(label: str) -> Generator[Report]:
    """Give a callback `(done, total)` that shows progress on stderr."""
    if sys.stderr.isatty():
        with _bar(label) as report:
            yield report
    else:
        yield _lines(label)


@contextmanager
def _bar(label: str) -> Generator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str) -> Report:
    began = time.monotonic()
    last = began

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _QUIET_INTERVAL_S:
            return
        last = now
        left = (now - began) / max(done, 1) * (total - done)
        print(f"{label}: {done}/{total}, {now - began:.0f} s, {left:.0f} s left", file=sys.stderr)

    return report
