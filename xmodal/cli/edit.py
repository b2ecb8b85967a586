"""`xmodal edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def edit(
    run: Annotated[Path, typer.Argument(help="RUN folder over splats.")],
    text: Annotated[str | None, typer.Argument(help='What to edit; synonyms with "|".')] = None,
    *,
    out: Annotated[Path, typer.Option(help="File to write: .ply or .splat.")],
    keep: Annotated[bool, typer.Option("--keep", help="Write what was selected alone.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Write the scene without it.")] = False,
    colour: Annotated[
        str | None, typer.Option(help="R,G,B of 0 to 255: give it this colour.")
    ] = None,
    hue: Annotated[float | None, typer.Option(help="Degrees: turn its hues.")] = None,
    click: Annotated[str | None, typer.Option(help="FRAME,U,V: what is there.")] = None,
    box: Annotated[str | None, typer.Option(help="FRAME,U0,V0,U1,V1: what is in it.")] = None,
    image: Annotated[Path | None, typer.Option(help="What this picture shows.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="lifted, student, ensemble, a head (student.maps); the student if none."),
    ] = None,
    negative: Annotated[list[str] | None, typer.Option(help="A text to tell it from.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Edit so many of the best selections.")] = 1,
    threshold: Annotated[
        float | None, typer.Option(help="Share of the highest relevancy; the run's own if none.")
    ] = None,
) -> None:
    """Keep, delete or recolour what a prompt finds in a run over splats; one edit at a time.

    For example:

        xmodal edit RUN "soccer ball" --delete --out without.ply

        xmodal edit RUN --click 000,64,48 --colour 30,110,230 --out blue.splat
    """
    from xmodal.runs.edit import EditRequest, edit_run
    from xmodal.runs.prompts import Prompt

    negatives = tuple(negative or ())
    prompt = Prompt(text=text, click=click, box=box, image=image, negatives=negatives)
    request = EditRequest(
        run=run, prompt=prompt, out=out, keep=keep, delete=delete, colour=colour, hue_deg=hue,
        source=source, top=top, threshold=threshold,
    )  # fmt: skip
    print(edit_run(request))
