"""`xmodal demo`: the main job from end to end on a generated world or on the user's scene."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xmodal.errors import UsageError
from xmodal.query import find_objects
from xmodal.runs.evaluate import (
    EvalRequest,
    available_tasks,
    eval_run,
    object_names,
    truth_on,
)
from xmodal.runs.figure import Row, demo_row, write_figure
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.log import peak_memory_mb
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.query import best_frame, relevant_gain, write_heat
from xmodal.runs.train import TrainRequest, train_run

Reporter = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

# A third of the default: the demo's world is small, and its whole run should take minutes.
_STEPS = 250
# Things of the generated world that read well in one figure: a handle, a fruit, a spout.
_FIGURE_TEXTS = ("coffee mug", "banana", "teapot")


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """What to show; the fields are the options of the command line."""

    out: Path
    scene: Path | None = None
    texts: tuple[str, ...] = ()
    seed: int = 0
    num_views: int = 16
    max_frames: int | None = None
    steps: int | None = None
    overwrite: bool = False


def demo_run(request: DemoRequest, report: Reporter) -> None:
    """Lift, distill, query, evaluate; print a table and write one figure.

    Raises:
        UsageError: If a scene of the user's comes without a text to look for.
    """
    if request.scene is not None and not request.texts:
        raise UsageError(
            "xmodal demo SCENE",
            wanted="a text to look for",
            got="none",
            fix='add --text "coffee mug" (make demo SCENE=folder TEXT="coffee mug")',
        )
    began = time.monotonic()
    scene = request.scene or _world(request, report)
    _say("1/4 lift what the teacher sees in every view into the points")
    lift = LiftRequest(
        source=scene,
        out=request.out,
        max_frames=request.max_frames,
        overwrite=request.overwrite,
        seed=request.seed,
    )
    _say(lift_run(lift, report).summary())
    _say("2/4 distill it into a network that sees only points")
    overrides = (f"optimiser.steps={request.steps or _STEPS}",)
    train = TrainRequest(
        runfile=request.out / "run.yaml", out=request.out, overrides=overrides, again=True
    )
    _say(train_run(train, report).summary())
    opened = open_run(request.out)
    _say("3/4 ask")
    texts = request.texts or _texts(opened)
    _ask(opened, texts)
    _say("4/4 measure and draw")
    if available_tasks(opened.scene):
        print(eval_run(EvalRequest(run=request.out, out=request.out)))
    figure = request.out / "demo.png"
    rows = [_row(opened, text) for text in texts[:3]]
    write_figure(figure, rows, _title(opened, len(rows)))
    opened.run.finish()
    print(f"figure: {figure}")
    print(f"done in {time.monotonic() - began:.0f} s, peak memory {peak_memory_mb():.0f} MB")


def _world(request: DemoRequest, report: Reporter) -> Path:
    """Make the generated world beside the run, or use the one that is there."""
    from xmodal.world import WorldOptions, make_world

    options = WorldOptions(seed=request.seed, num_views=request.num_views)
    name = f"world-{request.seed}-{request.num_views}"
    folder = request.out.parent / f"{request.out.name}-{name}"
    _say("0/4 make a table-top world: objects, settling, rendering")
    with report("views") as progress:
        return make_world(folder, options, progress)


def _texts(opened: OpenedRun) -> tuple[str, ...]:
    """Names of the generated world's objects, the ones of the figure first."""
    labels = opened.scene.labels()
    names = () if labels is None else object_names(labels)
    first = [name for name in _FIGURE_TEXTS if name in names]
    return tuple(first + [name for name in names if name not in first])


def _ask(opened: OpenedRun, texts: Sequence[str]) -> None:
    """Print where each source finds each text, and write the first answer as a cloud."""
    views = np.asarray(opened.features("lifted").num_views)
    for source in opened.run.sources():
        print(f"  {source}:")
        scores = opened.relevancy(source, list(texts))
        for column, text in enumerate(texts):
            found = find_objects(
                opened.xyz, scores[:, column], views, threshold=opened.spec.query.threshold, top=1
            )
            place = "not found"
            if found:
                x, y, z = found[0].centre_m
                place = f"({x:+.2f}, {y:+.2f}, {z:+.2f}) m, relevancy {found[0].score:.3f}"
            print(f"    {text:<16} {place}")
        write_heat(opened.run.path / f"query_{source}.ply", opened, scores[:, 0])


def _row(opened: OpenedRun, text: str) -> Row:
    mask = _truth_mask(opened, text)
    lifted = opened.relevancy("lifted", [text])[:, 0]
    gain = relevant_gain(lifted) if mask is None else mask.astype(np.float32)
    return demo_row(opened, text, best_frame(opened, gain), mask)


def _truth_mask(opened: OpenedRun, text: str) -> npt.NDArray[np.bool_] | None:
    labels = opened.scene.labels()
    if labels is None or text not in labels.classes:
        return None
    truth = truth_on(opened, opened.scene, labels)
    return truth == labels.classes.index(text)


def _title(opened: OpenedRun, num_rows: int) -> str:
    views = len(opened.scene.images)
    asked = "text" if num_rows == 1 else "texts"
    return f"Where is it? {num_rows} {asked} asked of {views} posed RGB-D views"


def _say(text: str) -> None:
    print(text, flush=True)
