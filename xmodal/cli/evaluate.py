"""`xmodal eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def eval_(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Scene with labels or boxes; the run's own if none.")
    ] = None,
    task: Annotated[
        Literal["segmentation", "localisation"] | None,
        typer.Option(help="What to measure; whatever the scene has labels for if none."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Re-score another system: relevancy [N, classes].")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Re-score another system: class index [N], -1 for other.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; RUN if none.")] = None,
) -> None:
    """Measure a run against labels: 3D IoU per object, localisation of texts in frames.

    For example:

        xmodal eval RUN --task segmentation

        xmodal eval RUN --data SCENE --task localisation
    """
    from xmodal.runs.evaluate import EvalRequest, eval_run

    request = EvalRequest(
        run=run, data=data, task=task, scores=scores, labels=labels, out=out or run
    )
    print(eval_run(request))
