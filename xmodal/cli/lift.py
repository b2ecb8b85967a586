"""`xmodal lift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def lift(
    scene: Annotated[
        Path, typer.Argument(help="A folder of posed pictures, or a run file (.yaml).")
    ],
    out: Annotated[Path, typer.Option(help="RUN folder to make.")],
    teacher: Annotated[
        str, typer.Option(help="NAME[:MODEL[@CHECKPOINT]], for example openclip:ViT-B-16@FILE.")
    ] = "embedded",
    to: Annotated[
        str, typer.Option(help="Representation to lift to: points or gaussians.")
    ] = "points",
    voxel_m: Annotated[float, typer.Option(help="Point spacing when fused from depth.")] = 0.02,
    max_frames: Annotated[int | None, typer.Option(help="Use this many, evenly spaced.")] = None,
    disk_budget: Annotated[str, typer.Option(help="Cap of the teacher cache.")] = "4GB",
    cache: Annotated[Path | None, typer.Option(help="Folder of the teacher cache.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in --out.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="RUN whose features are used where they are the same.")
    ] = None,
    splats: Annotated[int | None, typer.Option(help="Splats to start a fit from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Pictures that a fit of splats shows.")] = None,
    seed: Annotated[int, typer.Option(help="Of a fit of splats, and of training.")] = 0,
) -> None:
    """Lift a teacher's 2D features into 3D, without training.

    For example:

        xmodal lift SCENE --teacher embedded --to points --out RUN

        xmodal lift PHOTOS --teacher imagenet_dense --to gaussians --splats 10000 --out RUN
    """
    from xmodal.cli.progress import progress
    from xmodal.runs.lift import LiftRequest, lift_run

    request = LiftRequest(
        source=scene,
        out=out,
        teacher=teacher,
        to=to,
        voxel_m=voxel_m,
        max_frames=max_frames,
        disk_budget=disk_budget,
        cache=cache,
        overwrite=overwrite,
        store=store,
        splats=splats,
        steps=steps,
        seed=seed,
    )
    print(lift_run(request, progress).summary())
