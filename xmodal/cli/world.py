"""`xmodal world`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def world(
    out: Annotated[Path, typer.Argument(help="Folder to make; one folder in it for each scene.")],
    train: Annotated[int, typer.Option(help="Scenes to train on.")] = 40,
    test: Annotated[int, typer.Option(help="Scenes of the same objects, other layouts.")] = 10,
    novel: Annotated[int, typer.Option(help="Scenes of objects that training has not.")] = 10,
    dev: Annotated[int, typer.Option(help="Scenes like test, for choosing settings.")] = 0,
    views: Annotated[int, typer.Option(help="Views of each scene.")] = 8,
    height: Annotated[int, typer.Option(help="Height of a view, pixels; 4:3.")] = 480,
    seed: Annotated[int, typer.Option(help="Another seed, another dataset.")] = 0,
) -> None:
    """Make a dataset of labelled table-top scenes, about 5 s each; no download.

    For example:

        xmodal world WORLDS --train 40 --test 10 --novel 10

        xmodal world WORLDS --train 2 --test 1 --novel 0 --views 4 --height 240
    """
    from xmodal.cli.progress import progress
    from xmodal.world import WorldSet, make_worlds

    options = WorldSet(
        train=train,
        test=test,
        novel=novel,
        dev=dev,
        num_views=views,
        hw=(height, round(height * 4 / 3)),
        seed=seed,
    )
    with progress("worlds") as report:
        paths = make_worlds(out, options, report)
    print(f"  {len(paths)} scenes -> {out}")
