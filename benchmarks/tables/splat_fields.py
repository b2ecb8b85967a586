"""Features of new views of a real room: lifted in closed form, or learnt through the renderer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables.held_views import BASELINES, judge
from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.kitchen import VOXEL_M, scene_folder
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.systems import RUNS
from benchmarks.tables.systems_kitchen import compared, in_room
from xmodal.atomic import write_text
from xmodal.config.runfile import RunFile, load_run
from xmodal.edges import op_class
from xmodal.edges.lift.held_out import ChosenViews, left_out
from xmodal.edges.lift.points import LiftPoints
from xmodal.evaluate import bootstrap
from xmodal.runs.frozen import feature_arrays, silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.localise import ask, localisation_pairs
from xmodal.runs.opened import open_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run, create_run, fingerprint_of
from xmodal.teachers.cache import CachedViews

# Every so-manyth view is neither lifted nor learnt from.
EVERY = 8
_MEAN = "closed form: mean"
_POINTS = "points: plain lift, drawn as discs"
# The field that is made first; others take over its sets, which are the same for all.
_START = "feature_3dgs: start alone"
# Of the solve, which starts from the mean; each costs half a minute.
_ITERATIONS = 4
# Rows are kept in half precision.
_BYTES = 2
_PROTOCOLS = {"": "3D", ", rendered": "2D"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to features of splats.

    Attributes:
        system: Graph that it is a variant of.
        width: Numbers that are kept of a splat.
        how: Of the closed form.
        start: Of a field.
        steps: Of a field; 0 for a closed form, 1 for what a field starts from.
        lr: Of a field; the least where only its start is asked for, so that nothing changes.
    """

    system: str = "backprojection"
    width: int = 384
    how: str = "mean"
    start: str = "lifted"
    steps: int = 0
    lr: float = 1e-9

    @property
    def source(self) -> str:
        """The node that is judged."""
        return "field.seen" if self.steps else "lifted"


_CLOSED = {
    _MEAN: Arm(),
    "closed form: robust": Arm(how="robust"),
    "closed form: solve, 4 iterations": Arm(system="tikhonov", how="solve"),
}
# Steps and learning rates were chosen on views 4, 12, .. of this room, held out in their turn. A
# random start needs more of both than a field that begins with the closed form.
_FIELDS = {
    _START: Arm(system="feature_3dgs", width=32, steps=1),
    "feature_3dgs": Arm(system="feature_3dgs", width=32, steps=100, lr=3e-4),
    "feature_3dgs: random start": Arm(
        system="feature_3dgs", width=32, steps=300, lr=1e-2, start="random"
    ),
    "m3": Arm(system="m3", width=16, steps=200, lr=3e-3),
    "m3: random start": Arm(system="m3", width=16, steps=300, lr=1e-2, start="random"),
}
TEACHERS: Mapping[str, Mapping[str, Arm]] = {
    "imagenet_dense": {**_CLOSED, **_FIELDS},
    "dino": {name: arm for name, arm in _CLOSED.items() if arm.how != "solve"},
}
# Ways to lift DINO from all views, to be asked by clicks; None for points.
_CLICKED: Mapping[str, str | None] = {"points": None, "splats, mean": "mean",
                                      "splats, robust": "robust"}  # fmt: skip


def make(work: Path, workers: int) -> ResultRecord:
    """Lift and learn without every eighth view, and look at these; click with all views."""
    scene_folder()
    arms = [(teacher, name) for teacher, given in TEACHERS.items() for name in given]
    jobs = {pair: Job(_job_name(*pair), make_arm, _settings(*pair)) for pair in arms}
    results = run_jobs([jobs["imagenet_dense", _START]], work, 1)
    results |= run_jobs(list(jobs.values()), work, workers)
    shutil.rmtree(_folder(work, "imagenet_dense", _START) / "features" / "seen", ignore_errors=True)
    points = [
        Job(_job_name(teacher, _POINTS), lift_to_points, {"teacher": teacher})
        for teacher in TEACHERS
    ]
    results |= run_jobs(points, work, workers)
    judges = [
        Job(f"splat_fields/{teacher}/judge", judge_teacher, {"teacher": teacher, "every": EVERY})
        for teacher in TEACHERS
    ]
    clicks = [Job(f"splat_fields/clicks/{name}", click, {"lift": name}) for name in _CLICKED]
    results |= run_jobs([*judges, *clicks], work, workers)
    judged = results["splat_fields/imagenet_dense/judge"]
    return record(
        "splat_fields",
        [_cosines(results), _localisation(results)],
        results,
        seeds=(0,),
        sizes={
            "views lifted": judged["lifted"],
            "views held out": judged["held_out"],
            "splats": judged["splats"],
        },
        notes=_NOTES,
    )


# ---- jobs --------------------------------------------------------------------------------------


def make_arm(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: a run without the held-out views; settings `teacher`, `name`, and those of `Arm`."""
    arm = Arm(**{key: settings[key] for key in asdict(Arm())})
    out = _folder(work, settings["teacher"], settings["name"])
    runfile = out.with_suffix(".yaml")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(runfile, arm_spec(arm, settings["teacher"], EVERY).to_yaml())
    first = _folder(work, settings["teacher"], _START)
    store = first if arm.steps and out != first else None
    began = time.process_time()
    lift_run(LiftRequest(source=runfile, out=out, overwrite=True, store=store), silent)
    lifted = time.process_time()
    if arm.steps:
        train_run(TrainRequest(runfile=runfile, out=out, again=True), silent)
    learnt = time.process_time()
    if store is not None:
        # Only what is judged stays; the rest of all fields is gigabytes.
        for name in ("checkpoints", "features/seen", "features/lifted"):
            shutil.rmtree(out / name)
    return {
        "lift_seconds": None if store else lifted - began,
        "learn_seconds": learnt - lifted if arm.steps > 1 else None,
    }


def arm_spec(arm: Arm, teacher: str, every: int | None) -> RunFile:
    """The run file of an arm: its system in the room, without the held-out views.

    Args:
        arm: The arm.
        teacher: Op of the teacher, with its usual settings where the system has another.
        every: Leave out every so-manyth view.
    """
    spec = in_room(load_run(RUNS / f"{arm.system}.yaml"), max(arm.steps, 1))
    graph, lift, encode = (
        spec.graph,
        dict[str, Any](spec.graph.lift),
        dict[str, Any](spec.graph.encode),
    )
    for key, op in lift.items():
        if op.op in ("splats", "splat_sets"):
            lift[key] = replace(op, hold_out=every)
        if op.op == "splats" and op.how == "solve":
            lift[key] = replace(lift[key], max_iterations=_ITERATIONS)
        elif op.op == "splats":
            lift[key] = replace(lift[key], how=arm.how)
    for key, op in encode.items():
        if op.op == "splat_field":
            encode[key] = replace(op, start=arm.start)
        elif getattr(op, "frozen", False) and op.op != teacher:
            encode[key] = op_class("encode", teacher)()
    spec = replace(spec, graph=replace(graph, lift=lift, encode=encode))
    return replace(spec, optimiser=replace(spec.optimiser, lr=arm.lr))


def lift_to_points(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: plain lift of the same views to the points that the splats are; setting `teacher`."""
    like = open_run(_folder(work, settings["teacher"], _MEAN))
    images, depths = like.scene.images, like.scene.depths
    assert depths is not None, "the room was taken with depth"
    kept = sorted(set(range(len(images))) - set(left_out(images.names, EVERY)))
    maps: Any = ChosenViews(CachedViews(images, like.teacher, like.cache), kept)
    began = time.process_time()
    lifted = LiftPoints()(maps, ChosenViews(depths, kept), like.scene.cloud())
    seconds = time.process_time() - began
    assert lifted.valid is not None, "a lift says what was seen"
    info = replace(like.run.info("lifted"), num_valid=int(lifted.valid.sum()))
    out = _folder(work, settings["teacher"], _POINTS)
    run = create_run(out, fingerprint_of(points_of=info.fingerprint), overwrite=True)
    run.write_features("lifted", info, **feature_arrays(lifted))
    assert torch.equal(lifted.xyz, like.cloud.xyz), "splats are the points, in their order"
    return {"lift_seconds": seconds, "learn_seconds": None}


def judge_teacher(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: cosine of every arm in every held-out view; settings `teacher` and `every`."""
    teacher = settings["teacher"]
    sources = {name: arm.source for name, arm in TEACHERS[teacher].items()}
    folders = {name: _folder(work, teacher, name) for name in (_POINTS, *sources)}
    stores = {
        name: Run(folder).features(sources.get(name, "lifted")) for name, folder in folders.items()
    }
    return judge(open_run(folders[_MEAN]), stores, settings["every"])


def click(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: DINO lifted from all views and asked by clicks; setting `lift`, a name of `_CLICKED`."""
    how, out = _CLICKED[settings["lift"]], work / "splat_fields" / "clicks"
    shutil.rmtree(out, ignore_errors=True)
    if how is None:
        request = LiftRequest(source=scene_folder(), teacher="dino", out=out, voxel_m=VOXEL_M)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        runfile = out.with_suffix(".yaml")
        write_text(runfile, arm_spec(Arm(how=how), "dino", None).to_yaml())
        request = LiftRequest(source=runfile, out=out)
    began = time.process_time()
    lift_run(request, silent)
    seconds = time.process_time() - began
    opened = open_run(out)
    pairs = localisation_pairs(opened, opened.scene, ask(opened, opened.scene))
    hits = {
        arm: {
            kind: [bool(getattr(pair.hits[arm], kind)) for pair in pairs]
            for kind in ("plain", "strict")
        }
        for arm in pairs[0].hits
    }
    shutil.rmtree(out)
    return {"hits": hits, "lift_seconds": seconds}


def _settings(teacher: str, name: str) -> dict[str, Any]:
    return {"teacher": teacher, "name": name, **asdict(TEACHERS[teacher][name])}


def _job_name(teacher: str, name: str) -> str:
    return f"splat_fields/{teacher}/{_key(name)}"


def _folder(work: Path, teacher: str, name: str) -> Path:
    return work / "splat_fields" / teacher / _key(name)


def _key(name: str) -> str:
    return name.replace(": ", "-").replace(", ", "-").replace(" ", "-")


# ---- tables ------------------------------------------------------------------------------------


def _cosines(results: Mapping[str, Mapping[str, Any]]) -> Any:
    rows: list[list[str]] = []
    for teacher, arms in TEACHERS.items():
        cosines = results[f"splat_fields/{teacher}/judge"]["cosines"]
        for name in (*BASELINES, _POINTS, *arms):
            row = [teacher, name, *against(cosines[name], cosines[_MEAN], name == _MEAN)]
            made = results.get(_job_name(teacher, name), {})
            source = _START if name in arms and arms[name].steps else name
            lift = results.get(_job_name(teacher, source), {}).get("lift_seconds")
            row += [_number(lift), _number(made.get("learn_seconds"))]
            width = arms[name].width if name in arms else 384
            rows.append([*row, "-" if name in BASELINES else str(_BYTES * width)])
    columns = (
        "teacher", "features", "cosine (95 %)", "- mean (95 %)", "s to lift", "s to learn",
        "bytes a splat",
    )  # fmt: skip
    return table(
        "Held-out views of the red kitchen: drawn features and the teacher's", columns, rows
    )


def against(cosines: Sequence[float], others: Sequence[float], same: bool) -> list[str]:
    """Mean over views with its interval, and the paired difference to another arm.

    Args:
        cosines: One for each view.
        others: Those of the other arm.
        same: Whether it is the same arm, which has no difference to show.
    """
    given = np.array(cosines)
    mean, low, high = bootstrap(given)
    cells = [f"{mean:.3f} ({low:.3f}..{high:.3f})"]
    mean, low, high = bootstrap(given - np.array(others))
    return [*cells, "-" if same else f"{mean:+.3f} ({low:+.3f}..{high:+.3f})"]


def _localisation(results: Mapping[str, Mapping[str, Any]]) -> Any:
    plain = results["splat_fields/clicks/points"]["hits"]
    rows = [["single view", "-", *compared(plain["single view"], plain["lifted"]), "-"]]
    for name, how in _CLICKED.items():
        found = results[f"splat_fields/clicks/{name}"]
        seconds = _number(found["lift_seconds"])
        for ending, protocol in _PROTOCOLS.items():
            if how is not None or not ending:
                cells = compared(found["hits"]["lifted" + ending], plain["lifted"])
                rows.append([f"lifted to {name}", protocol, *cells, seconds])
    columns = ("DINO", "protocol", "hits", "strict hits", "strict - points (95 %)", "s to lift")
    return table("DINO in the red kitchen: localisation by clicks", columns, rows)


def _number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}"


_NOTES = (
    "Cosines are over patches of held-out views, the same for all rows of a teacher, then over "
    "views; intervals draw views anew. Splats are the points of the room as flat discs, which were "
    "fused from the depth of all views; features come from the others alone. `start alone` is the "
    "closed form at the field's width, along the principal directions of lifted rows; m3 asks its "
    "memory along them. Fields begin there unless it says random. Seconds are those of one core; "
    "`s to lift` begins with depth maps and the teacher's cached maps, and for fields ends with "
    "the sets of all patches, beside the mean. Bytes are of rows in half precision; decoders of "
    "fields are 0.05 MB (feature_3dgs) and 0.4 MB (m3) more for the whole scene. `warped` moves "
    "the map of the nearest lifted view, half a second away, by depth, and takes the constant "
    "where that view does not see the place: no average over views, so what changes with the view "
    "is nearly right, and nothing is kept of the room.",
    "langsplat and gaussiangrasper are not here: they learn masks' probabilities, at one size of "
    "mask or at single pixels, so their targets are not the rows that these are compared with.",
    "Clicks are as in the main job on this room: what DINO sees at the middle of the boxes of the "
    "same thing in other labelled frames, looked for in this one; lifted from all views.",
)
