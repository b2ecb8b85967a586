"""`xmodal eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[
    Path, typer.Argument(help="RUN folder; or a labelled scene beside --scores and the like.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled scenes or recordings, seen or not; the run's own if none."),
]
Task = Annotated[
    Literal[
        "segmentation", "localisation", "retrieval", "clusters", "views", "features",
        "classification", "probe", "zero_shot", "robustness", "maps",
    ]
    | None,
    typer.Option(help="What to measure; what the run file says, or there are labels for, if none."),
]  # fmt: skip
Missing = Annotated[
    list[str] | None, typer.Option(help="Recordings: take a stream away, such as imu.")
]
Noise = Annotated[
    list[str] | None, typer.Option(help="Recordings: imu=0.5 adds noise of half its spread.")
]
Swapped = Annotated[
    list[str] | None, typer.Option(help="Recordings: take a stream from another recording.")
]
Source = Annotated[
    list[str] | None,
    typer.Option(help="Recordings: rows to measure, such as motion or motion.trunk; all if none."),
]
Split = Annotated[
    Literal["train", "val", "test", "all"] | None,
    typer.Option(help="Scenes of a run over several; those held out if none."),
]
Protocol = Annotated[
    Literal["3d", "2d", "both"],
    typer.Option(help="Judge points (3d), labelled frames they are rendered into (2d), both."),
]
Names = Annotated[
    str | None, typer.Option(help="Classes to tell apart, a,b,c; the scene's objects if none.")
]
Base = Annotated[
    str | None, typer.Option(help="Classes seen in training: adds base, novel, harmonic IoU.")
]
GivenScores = Annotated[
    Path | None, typer.Option(help="Another system: scores [N, classes] (.npy, or a folder).")
]
GivenLabels = Annotated[
    Path | None, typer.Option(help="Another system: class ids [N] as in labels.npy, -1 for none.")
]
GivenFeatures = Annotated[
    Path | None, typer.Option(help="Another system: features [N, C], with --text-vectors.")
]
TextVectors = Annotated[
    Path | None, typer.Option(help="Vectors [classes, C] in the space of --features.")
]
Every = Annotated[
    int | None,
    typer.Option(help="--task features: every so-manyth frame; those held out, or all, if none."),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the tables; RUN if none.")]


def eval_(
    run: Run,
    data: Data = None,
    task: Task = None,
    split: Split = None,
    protocol: Protocol = "3d",
    names: Names = None,
    base: Base = None,
    scores: GivenScores = None,
    labels: GivenLabels = None,
    features: GivenFeatures = None,
    text_vectors: TextVectors = None,
    every: Every = None,
    missing: Missing = None,
    noise: Noise = None,
    swapped: Swapped = None,
    source: Source = None,
    out: Out = None,
) -> None:
    """Measure a run against labels, or another system's output on the same points.

    For example:

        xmodal eval RUN --data SCENES --protocol both

        xmodal eval SCENE --labels PREDICTED.npy --out TABLES
    """
    from xmodal.cli.progress import progress
    from xmodal.runs.evaluate import EvalRequest, eval_run
    from xmodal.runs.evaluate.request import split_names

    request = EvalRequest(
        run=run,
        out=out or run,
        data=data,
        task=task,
        scores=scores,
        labels=labels,
        features=features,
        text_vectors=text_vectors,
        names=split_names(names),
        base=split_names(base),
        split=split,
        protocol=protocol,
        every=every,
        missing=tuple(missing or ()),
        noise=tuple(noise or ()),
        swapped=tuple(swapped or ()),
        source=tuple(source or ()),
    )
    print(eval_run(request, progress))
