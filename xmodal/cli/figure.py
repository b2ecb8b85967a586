"""`xmodal figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def figure(
    run: Annotated[Path, typer.Argument(help="RUN folder, lifted or trained.")],
    *,
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")],
    frame: Annotated[
        list[str] | None,
        typer.Option(help="A frame (or recording), once for each row; chosen if none."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="lifted, student, a head (student.maps); the student if none."),
    ] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Also what the teacher says of the frame alone.")
    ] = False,
) -> None:
    """Draw frames of a run: the photo, the splats' colour and depth, and features as colours.

    Features are shown by three principal components, the same in all frames. Of a run that learnt
    maps of recordings: the maps as recorded, and as every stream tells them. For example:

        xmodal figure RUN --out features.png

        xmodal figure RUN --frame 000003 --frame 000010 --teacher --out features.png
    """
    from xmodal.runs.sheets import figure_run

    print(figure_run(run, out, tuple(frame or ()), source=source, teacher=teacher))
