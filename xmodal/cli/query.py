"""`xmodal query`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def query(
    run: Annotated[Path, typer.Argument(help="RUN folder, lifted or trained.")],
    text: Annotated[str | None, typer.Argument(help='What to look for; synonyms with "|".')] = None,
    click: Annotated[str | None, typer.Option(help="FRAME,U,V: look for what is there.")] = None,
    box: Annotated[
        str | None, typer.Option(help="FRAME,U0,V0,U1,V1: what is there; of runs over splats.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what this picture shows.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="lifted, student, ensemble, a head (student.maps); the student if none."),
    ] = None,
    negative: Annotated[list[str] | None, typer.Option(help="A text to tell it from.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Largest number of objects.")] = 10,
    frame: Annotated[
        str | None, typer.Option(help="Frame of --png; the best view if none.")
    ] = None,
    ply: Annotated[Path | None, typer.Option(help="Write the cloud in heat colours.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write relevancy over a frame.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the objects found.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write float32 relevancy per point.")] = None,
) -> None:
    """Find where a text, a clicked pixel, a box or a picture is in 3D.

    For example:

        xmodal query RUN "coffee mug" --png q.png --ply q.ply

        xmodal query RUN --click 000000,380,185 --source lifted --scores s.npy
    """
    from xmodal.runs.prompts import Prompt, QueryOutputs
    from xmodal.runs.query import query_run

    negatives = tuple(negative or ())
    prompt = Prompt(text=text, click=click, box=box, image=image, negatives=negatives)
    outputs = QueryOutputs(ply=ply, png=png, json=json, scores=scores, frame=frame, top=top)
    print(query_run(run, prompt, source, outputs))
