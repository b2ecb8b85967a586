"""`xmodal rooms`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def rooms(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    num: Annotated[int, typer.Option(help="Rooms to train on.")] = 80,
    test: Annotated[int, typer.Option(help="Other rooms, named test-NNNN.")] = 20,
    mapped: Annotated[
        int | None,
        typer.Option(help="Rooms to train on that have maps; the others are heard and seen only."),
    ] = None,
    places: Annotated[int, typer.Option(help="Places in each room where somebody listens.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed, another data set.")] = 0,
    source: Annotated[
        Literal["self", "beside"],
        typer.Option(help="Who makes the sound: the listener (echo-location), or somebody else."),
    ] = "self",
    sound: Annotated[
        Literal["sweep", "clap", "noise"], typer.Option(help="What is heard.")
    ] = "sweep",
) -> None:
    """Make furnished rooms that are heard and seen: echoes, depth, classes, floor plans, voxels.

    For example:

        xmodal rooms --out data/rooms --num 80 --test 20

        xmodal rooms --out data/few --num 60 --mapped 15

        xmodal rooms --out data/claps --num 8 --test 2 --places 2 --sound clap --source beside
    """
    from xmodal.cli.progress import progress
    from xmodal.rooms import RoomSet, make_rooms

    options = RoomSet(
        num=num,
        test=test,
        mapped=mapped,
        places=places,
        seed=seed,
        source=source,
        sound=sound,
    )
    with progress("rooms") as report:
        make_rooms(out, options, report)
    print(f"  {num + test} rooms, {places} places each -> {out}")
