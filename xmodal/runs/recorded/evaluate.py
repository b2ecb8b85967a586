"""`xmodal eval` of a run over recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xmodal.config.run_parts import RECORDING_TASKS
from xmodal.errors import DataError, UsageError
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
from xmodal.runs.recorded.measure import (
    Tables,
    classification_tables,
    probe_tables,
    retrieval_tables,
    zero_shot_tables,
)
from xmodal.runs.recorded.robustness import robustness_tables
from xmodal.values import Embedding

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
    if unknown := [source for source in request.source if source not in opened.sources]:
        raise UsageError(
            f"--source {unknown[0]}",
            wanted=f"one of {', '.join(opened.sources)}",
            got=unknown[0],
            fix="choose one of those, or leave it out",
        )
    disturbance = disturbance_of(request.missing, request.noise, request.swapped)
    if request.task == "robustness":
        if disturbance:
            raise UsageError(
                "--task robustness",
                wanted="no --missing, --noise or --swapped: it tries them all",
                got=str(disturbance),
                fix="leave them out, or choose another task",
            )
        tables = robustness_tables(opened, request, report)
        request.out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.write(request.out, name)
        texts = [table.text() for table in tables.values()]
        return "\n\n".join([*texts, f"wrote csv and markdown to {request.out}"])
    if request.data is None and not disturbance:
        judged = own_recordings(opened, request.split)
    else:
        judged = other_recordings(
            opened, request.data, request.split, disturbance, report, request.source
        )
    judged = replace(judged, asked=request.source, told_apart=request.names)
    texts = _measured(opened, judged, request)
    return "\n\n".join([*texts, f"wrote csv and markdown to {request.out}"])


def _measured(opened: OpenedRecorded, judged: Judged, request: EvalRequest) -> list[str]:
    """Write the tables of every task, return the short ones as text.

    What the run file asks for but these recordings have not is said, unless nothing is left.
    """
    texts: list[str] = []
    errors: list[DataError] = []
    for task in _tasks(opened, judged, request):
        try:
            tables: Tables = _MEASURES[task](opened, judged)
        except DataError as error:
            if request.task is not None:
                raise
            errors.append(error)
            texts.append(f"{task}: not measured; wanted {error.wanted}, got {error.got}")
            continue
        request.out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.write(request.out, name)
        shown = [task] if task in tables else list(tables)
        texts += [tables[name].text() for name in shown]
    if len(errors) == len(texts):
        raise errors[0]
    return texts


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
        "--text-vectors": request.text_vectors, "--base": request.base, "--every": request.every,
        "--names": request.names if request.task != "zero_shot" else None,
        "--source": request.source if request.task in ("retrieval", "maps") else None,
        "--split": request.split if request.data is not None else None,
    }  # fmt: skip
    wrong = next((option for option, value in given.items() if value), None)
    wrong = "--protocol" if wrong is None and request.protocol != "3d" else wrong
    if wrong is not None:
        raise UsageError(
            wrong,
            wanted="options that mean something for recordings and the task",
            got=f"{request.run}, a run over recordings"
            + (f", --task {request.task}" if request.task else "")
            + (f", --data {request.data}" if request.data else ""),
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
