"""`xmodal eval` of a run over recordings."""

from __future__ import annotations

from collections.abc import Sequence

from xmodal.config.run_parts import RECORDING_TASKS
from xmodal.errors import DataError, UsageError
from xmodal.evaluate.tables import Table
from xmodal.graph.ports import Kind
from xmodal.recordings.disturbing import Disturbance
from xmodal.recordings.recording import STREAMS
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.frozen import Reporter
from xmodal.runs.recorded.judged import (
    Judged,
    OpenedRecorded,
    open_recorded,
    other_recordings,
    own_recordings,
)
from xmodal.runs.recorded.maps import map_tables
from xmodal.runs.recorded.material import open_data
from xmodal.runs.recorded.measure import (
    Tables,
    classification_tables,
    probe_tables,
    retrieval_tables,
    zero_shot_tables,
)
from xmodal.values import Embedding

# Noise in units of a stream's spread that robustness is measured with.
_NOISES = (0.5, 1.0)
_MEASURES = {
    "classification": classification_tables,
    "probe": probe_tables,
    "zero_shot": zero_shot_tables,
    "retrieval": retrieval_tables,
    "maps": map_tables,
}


def eval_recordings(request: EvalRequest, report: Reporter) -> str:
    """Measure a run over recordings, write the tables, return the short ones as text.

    Raises:
        UsageError: If an option has no effect on recordings.
        DataError: If there is nothing to measure.
    """
    _check(request)
    opened = open_recorded(request.run)
    disturbance = disturbance_of(request.missing, request.noise, request.swapped)
    if request.task == "robustness":
        if disturbance:
            raise UsageError(
                "--task robustness",
                wanted="no --missing, --noise or --swapped: it tries them all",
                got=str(disturbance),
                fix="leave them out, or choose another task",
            )
        tables = _robustness(opened, request, report)
        request.out.mkdir(parents=True, exist_ok=True)
        tables["robustness"].write(request.out, "robustness")
        return f"{tables['robustness'].text()}\n\nwrote csv and markdown to {request.out}"
    if request.data is None and not disturbance:
        judged = own_recordings(opened, request.split)
    else:
        judged = other_recordings(opened, request.data, request.split, disturbance, report)
    request.out.mkdir(parents=True, exist_ok=True)
    texts: list[str] = []
    for task in _tasks(opened, judged, request):
        tables: Tables = _MEASURES[task](opened, judged)
        for name, table in tables.items():
            table.write(request.out, name)
        shown = [task] if task in tables else list(tables)
        texts += [tables[name].text() for name in shown]
    return "\n\n".join([*texts, f"wrote csv and markdown to {request.out}"])


def _robustness(opened: OpenedRecorded, request: EvalRequest, report: Reporter) -> Tables:
    """Accuracy with every stream taken away, made noisy, and swapped in turn."""
    recordings = open_data(opened.spec.data)
    kinds: list[Kind] = [kind for kind in recordings.kinds if kind in STREAMS]
    cases = [Disturbance()]
    cases += [Disturbance(missing={kind: 1.0}) for kind in kinds if len(kinds) > 1]
    noisy: list[Kind] = [k for k in kinds if k in ("audio", "imu", "skeleton")]
    cases += [Disturbance(noise={kind: share}) for kind in noisy for share in _NOISES]
    cases += [Disturbance(swapped=(kind,)) for kind in kinds]
    rows: list[tuple[str | float | int, ...]] = []
    for case in cases:
        judged = other_recordings(opened, request.data, request.split, case, report)
        for task in ("classification", "probe"):
            try:
                tables: Tables = _MEASURES[task](opened, judged)
            except DataError:
                continue  # the run has nothing of this task
            rows += [
                (str(case) or "as recorded", task, *row[:5], row[8]) for row in tables[task].rows
            ]
    if not rows:
        raise DataError(
            str(opened.run.path),
            wanted="a head of classes, or rows to probe",
            got=f"rows of {', '.join(opened.sources)}",
            fix="teach a student classes, or give it a width of its own",
        )
    columns = ("streams", "task", "source", "recordings", "accuracy", "low", "high", "mAP")
    title = "robustness: streams taken away, with noise, and of another recording"
    return {"robustness": Table(title, columns, tuple(rows))}


def _tasks(opened: OpenedRecorded, judged: Judged, request: EvalRequest) -> Sequence[str]:
    if request.task is not None:
        return [request.task]
    if opened.spec.evaluation.tasks:
        return opened.spec.evaluation.tasks
    single = [s for s, value in judged.rows.items() if isinstance(value, Embedding)]
    if any(opened.info(s).classes and not opened.from_labels(s) for s in single):
        return ["classification"]
    return ["probe"] if single else ["maps"]


def _check(request: EvalRequest) -> None:
    given = {
        "--scores": request.scores, "--labels": request.labels, "--features": request.features,
        "--text-vectors": request.text_vectors, "--names": request.names, "--base": request.base,
        "--every": request.every,
    }  # fmt: skip
    wrong = next((option for option, value in given.items() if value), None)
    wrong = "--protocol" if wrong is None and request.protocol != "3d" else wrong
    if wrong is not None:
        raise UsageError(
            wrong,
            wanted="options that mean something for recordings",
            got=f"{request.run}, which is a run over recordings",
            fix=f"leave {wrong} out",
        )
    if request.task not in (None, "robustness", *RECORDING_TASKS):
        raise UsageError(
            f"--task {request.task}",
            wanted=f"one of {', '.join(RECORDING_TASKS)}, robustness, for a run over recordings",
            got=str(request.task),
            fix="choose another task, or leave it out",
        )


def disturbance_of(
    missing: Sequence[str], noise: Sequence[str], swapped: Sequence[str]
) -> Disturbance:
    """What the options `--missing`, `--noise KIND=SHARE` and `--swapped` ask for.

    Raises:
        UsageError: If one names no kind of stream, or a share is no positive number.
    """
    shares: dict[Kind, float] = {}
    for text in noise:
        kind, _, share = text.partition("=")
        try:
            shares[_kind("--noise", kind)] = float(share)
        except ValueError:
            shares[_kind("--noise", kind)] = -1.0
        if not 0 < shares[_kind("--noise", kind)] < float("inf"):
            raise UsageError(
                f"--noise {text}",
                wanted="KIND=SHARE, noise in units of the stream's spread",
                got=text,
                fix="--noise imu=0.5",
            )
    return Disturbance(
        missing={_kind("--missing", kind): 1.0 for kind in missing},
        noise=shares,
        swapped=tuple(_kind("--swapped", kind) for kind in swapped),
    )


def _kind(option: str, text: str) -> Kind:
    if text not in STREAMS:
        raise UsageError(
            f"{option} {text}",
            wanted=f"one of {', '.join(STREAMS)}",
            got=text,
            fix=f"{option} imu",
        )
    return text
