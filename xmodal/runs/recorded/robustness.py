"""Accuracy of a run over recordings while its streams are taken away, noisy, or of others."""

from __future__ import annotations

from dataclasses import replace

import torch

from xmodal.errors import DataError
from xmodal.evaluate.tables import Table
from xmodal.graph.ports import Kind
from xmodal.recordings.disturbing import Disturbance
from xmodal.recordings.recording import STREAMS, Recordings
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.frozen import Reporter
from xmodal.runs.recorded.judged import Judged, OpenedRecorded, Rows, judged_of, recordings_of
from xmodal.runs.recorded.measure import classification_tables, probe_tables

# Noise in units of a stream's spread that robustness is measured with.
NOISES = (0.5, 1.0)
_MEASURES = {"classification": classification_tables, "probe": probe_tables}
_COLUMNS = ("streams", "task", "source", "recordings", "accuracy", "low", "high", "mAP")


def robustness_table(opened: OpenedRecorded, request: EvalRequest, report: Reporter) -> Table:
    """Accuracy with every stream taken away, made noisy, and swapped in turn.

    What says nothing any more has no answer, which is wrong.

    Raises:
        DataError: If the run has neither a head of classes nor rows to probe.
    """
    recordings, name = recordings_of(opened, request.data, request.split)
    rows: list[tuple[str | float | int, ...]] = []
    whole = judged_of(opened, recordings, name, report, only=request.source)
    tasks = _tasks(opened, replace(whole, asked=request.source))
    for case in cases(recordings):
        judged = (
            whole if not case else judged_of(opened, recordings, name, report, case, request.source)
        )
        gone = {s: _silent(value) for s, value in whole.rows.items() if s not in judged.rows}
        judged = replace(judged, rows={**judged.rows, **gone}, asked=request.source)
        for task in tasks:
            found = _MEASURES[task](opened, judged)[task].rows
            rows += [(str(case) or "as recorded", task, *row[:5], row[8]) for row in found]
    title = f"robustness of {whole.what}: streams taken away, with noise, and of another recording"
    return Table(title, _COLUMNS, tuple(rows))


def cases(recordings: Recordings) -> list[Disturbance]:
    """What is tried, the undisturbed recordings first."""
    kinds: list[Kind] = [kind for kind in recordings.kinds if kind in STREAMS]
    found = [Disturbance()]
    found += [
        Disturbance(missing={kind: 1.0})
        for kind in kinds
        if all(item.kinds - {kind} for item in recordings.items)
    ]
    noisy: list[Kind] = [kind for kind in kinds if kind in ("audio", "imu", "skeleton", "video")]
    found += [Disturbance(noise={kind: share}) for kind in noisy for share in NOISES]
    if len(recordings) > 1:
        found += [Disturbance(swapped=(kind,)) for kind in kinds]
    return found


def _tasks(opened: OpenedRecorded, judged: Judged) -> list[str]:
    """Which of the measures these recordings have."""
    found: list[str] = []
    errors: list[DataError] = []
    for task, measure in _MEASURES.items():
        try:
            measure(opened, judged)
        except DataError as error:
            errors.append(error)
        else:
            found.append(task)
    if not found:
        raise errors[-1]
    return found


def _silent(value: Rows) -> Rows:
    return replace(
        value,
        rows=torch.zeros_like(value.rows),
        valid=torch.zeros_like(value.valid),
        weight=torch.zeros_like(value.weight),
    )
