"""`xmodal align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def align(
    folder: Annotated[Path, typer.Argument(help="Folder of the format `clips`.")],
    max_lag: Annotated[float, typer.Option(help="Largest lag to look for, seconds.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Write the lags to this csv file.")] = None,
) -> None:
    """Find how late readings and sounds are behind the films that they lie beside.

    For example:

        xmodal align FOLDER

        xmodal align FOLDER --max-lag 5 --out lags.csv
    """
    from xmodal.errors import DataError, UsageError
    from xmodal.recordings.clips import clocks_of, find_files
    from xmodal.recordings.clocks import nothing_to_align, write_clocks

    if not 0 < max_lag < float("inf"):
        raise UsageError(
            f"--max-lag {max_lag:g}",
            wanted="seconds above 0",
            got=f"{max_lag:g}",
            fix="--max-lag 1",
        )
    if not folder.is_dir():
        raise DataError(
            str(folder),
            wanted="a folder with films and the files beside them",
            got="a file" if folder.exists() else "no such folder",
            fix="correct the path",
        )
    found = find_files(folder)
    clocks = [clock for each in clocks_of(found, max_lag).values() for clock in each]
    if not clocks:
        raise nothing_to_align(str(folder), found)
    for clock in clocks:
        print(f"  {clock.text()}")
    if any(clock.trusted for clock in clocks):
        print(f"  `data: {{align_within_s: {max_lag:g}}}` in a run file takes these out")
    if out is not None:
        write_clocks(out, clocks)
        print(f"  wrote {out}")
