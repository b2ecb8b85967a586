"""`xmodal train` and `xmodal apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    runfile: Annotated[Path, typer.Argument(help="run.yaml, for example the one lift wrote.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, scalars of the run file.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="RUN folder; the lifted one, or a new one.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint, exactly.")] = False,
    disk_budget: Annotated[str, typer.Option(help="Cap of the teacher cache.")] = "4GB",
    cache: Annotated[Path | None, typer.Option(help="Folder of the teacher cache.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in --out.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="RUN whose features are used where they are the same.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Trained RUN whose networks are the first weights.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Compute a failed step once more: RUN/failed-step-N.json.")
    ] = None,
) -> None:
    """Distill the lifted features into a network that needs only points.

    For example:

        xmodal train RUN/run.yaml --out RUN

        xmodal train RUN/run.yaml optimiser.steps=100 --out RUN2
    """
    from xmodal.cli.progress import progress
    from xmodal.runs.train import TrainRequest, replay_run, train_run

    request = TrainRequest(
        runfile=runfile,
        out=out,
        overrides=tuple(overrides or ()),
        resume=resume,
        disk_budget=disk_budget,
        cache=cache,
        overwrite=overwrite,
        store=store,
        start=start,
    )
    if replay is not None:
        print(replay_run(request, replay))
    else:
        print(train_run(request, progress).summary())


def apply(
    run: Annotated[Path, typer.Argument(help="RUN folder that holds a trained student.")],
    scene: Annotated[Path, typer.Argument(help="A scene folder or a point cloud (.ply).")],
    out: Annotated[Path, typer.Option(help="RUN folder to make.")],
    voxel_m: Annotated[float, typer.Option(help="Point spacing when fused from depth.")] = 0.02,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in --out.")] = False,
) -> None:
    """Run a trained student on new points, without images.

    For example:

        xmodal apply RUN CLOUD.ply --out RUN2

        xmodal apply RUN OTHER_SCENE --out RUN2
    """
    from xmodal.cli.progress import progress
    from xmodal.runs.train import apply_run

    print(apply_run(run, scene, out, voxel_m=voxel_m, overwrite=overwrite, report=progress))
