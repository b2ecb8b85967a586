"""`xmodal demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    scene: Annotated[
        Path | None, typer.Argument(help="Your posed RGB-D folder; a generated world if none.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="What to look for.")] = None,
    out: Annotated[Path, typer.Option(help="RUN folder to make.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
    views: Annotated[int, typer.Option(min=2, help="Views of the generated world.")] = 16,
    max_frames: Annotated[int | None, typer.Option(help="Use this many, evenly spaced.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; 250 if none.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in --out.")] = False,
) -> None:
    """The main job from end to end, offline: lift, distill, query, evaluate, pictures.

    For example:

        xmodal demo

        xmodal demo SCENE --text "coffee mug" --out RUN
    """
    from xmodal.cli.progress import progress
    from xmodal.runs.demo import DemoRequest, demo_run

    request = DemoRequest(
        scene=scene,
        texts=tuple(text or ()),
        out=out,
        seed=seed,
        num_views=views,
        max_frames=max_frames,
        steps=steps,
        overwrite=overwrite,
    )
    demo_run(request, progress)
