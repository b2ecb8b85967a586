"""`xmodal eval`: which tasks, their tables, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence

from xmodal.datasets import Scene
from xmodal.errors import DataError, UsageError
from xmodal.evaluate.tables import Table
from xmodal.runs.evaluate.clusters import cluster_tables
from xmodal.runs.evaluate.features import feature_tables
from xmodal.runs.evaluate.picture import write_chart
from xmodal.runs.evaluate.request import EvalRequest, Task
from xmodal.runs.evaluate.retrieval import retrieval_tables
from xmodal.runs.evaluate.segmentation import segmentation
from xmodal.runs.evaluate.subject import Subject, collect
from xmodal.runs.evaluate.views import view_tables
from xmodal.runs.frozen import Reporter, silent
from xmodal.runs.localise import localisation_tables
from xmodal.runs.opened import OpenedRun
from xmodal.runs.recorded.material import is_recorded
from xmodal.store import Run

# Tables that are written but too long to print.
_FILES_ONLY = ("calibration", "calibration_2d", "views_each", "features_each")


def eval_run(request: EvalRequest, report: Reporter = silent) -> str:
    """Measure a run or another system's output, write the tables, return them as text.

    Raises:
        DataError: If there is nothing to measure against, or a file is damaged.
        UsageError: If the options do not go together.
    """
    if is_recorded(Run(request.run)):
        from xmodal.runs.recorded.evaluate import eval_recordings

        return eval_recordings(request, report)
    request.check()
    subjects = collect(request, report)
    tasks = _tasks(subjects, request)
    request.out.mkdir(parents=True, exist_ok=True)
    texts = [_what(subjects)] if len(subjects) > 1 else []
    for task in tasks:
        tables, lines = _measure(task, subjects, request, report)
        for name, table in tables.items():
            table.write(request.out, name)
            if name not in _FILES_ONLY:
                texts.append(table.text())
        texts += lines
    return "\n\n".join([*texts, f"wrote csv and markdown to {request.out}"])


def available_tasks(scene: Scene) -> list[Task]:
    """What a scene has labels for."""
    tasks: list[Task] = []
    if scene.labels() is not None:
        tasks.append("segmentation")
    if scene.boxes:
        tasks.append("localisation")
    return tasks


def _tasks(subjects: Sequence[Subject], request: EvalRequest) -> list[Task]:
    if request.given:
        return ["segmentation"]
    if request.task is not None:
        only = [name for name in ("names", "base") if getattr(request, name)]
        if request.task == "localisation" and (only or request.protocol != "3d"):
            option = f"--{only[0]}" if only else f"--protocol {request.protocol}"
            raise UsageError(
                option,
                wanted="a task that has use for it",
                got="--task localisation",
                fix=f"leave {option} out",
            )
        return [request.task]
    tasks: list[Task] = []
    if all(subject.labels is not None for subject in subjects):
        tasks.append("segmentation")
    if all(subject.scene is not None and subject.scene.boxes for subject in subjects):
        tasks.append("localisation")
    if not tasks and all(subject.opened and subject.opened.splats for subject in subjects):
        tasks.append("views")
    if not tasks:
        raise DataError(
            ", ".join(str(s.scene.root if s.scene else s.name) for s in subjects[:5]),
            wanted="labels.npy with classes.json, or boxes in localisation.json or scene.json",
            got="neither",
            fix="give a labelled scene with --data",
        )
    return tasks


def _measure(
    task: Task, subjects: Sequence[Subject], request: EvalRequest, report: Reporter
) -> tuple[dict[str, Table], list[str]]:
    if task == "retrieval":
        return retrieval_tables(subjects, request), []
    if task == "views":
        return view_tables(subjects, report), []
    if task == "features":
        return feature_tables(subjects, report, request.every), []
    if task == "clusters":
        return cluster_tables(subjects, request), []
    if task == "localisation":
        return localisation_tables([(_opened(s), _scene(s)) for s in subjects]), []
    found = segmentation(subjects, request, report)
    lines = [*found.notes]
    for protocol, results in found.results.items():
        name = "metrics.png" if protocol == "3d" else f"metrics_{protocol}.png"
        if not write_chart(request.out / name, results):
            lines.append(f"no {name}: matplotlib is not installed (pip install 'xmodal[embedded]')")
    blocks = ["\n".join(part) for part in (lines, found.alarms) if part]
    return dict(found.tables), blocks


def _opened(subject: Subject) -> OpenedRun:
    assert subject.opened is not None, "only another system's arrays come without a run"
    return subject.opened


def _scene(subject: Subject) -> Scene:
    if subject.scene is None:
        raise DataError(
            subject.name,
            wanted="frames with boxes, for --task localisation",
            got="a cloud without pictures",
            fix="give a scene with color/, pose/ and boxes",
        )
    return subject.scene


def _what(subjects: Sequence[Subject]) -> str:
    names = ", ".join(subject.name for subject in subjects[:6])
    more = ", ..." if len(subjects) > 6 else ""
    return f"{len(subjects)} scenes: {names}{more}"
