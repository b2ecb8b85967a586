"""Answers of a run over recordings while its streams are taken away, noisy, or of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from xmodal.runs.recorded.maps import map_tables
from xmodal.runs.recorded.measure import classification_tables, probe_tables

# Noise in units of a stream's spread that robustness is measured with.
NOISES = (0.5, 1.0)
_MEASURES = {
    "maps": map_tables,
    "classification": classification_tables,
    "probe": probe_tables,
}
_COLUMNS = ("streams", "task", "source", "recordings", "accuracy", "low", "high", "mAP")
_MAP_COLUMNS = ("streams", "source", "recordings", "measure", "value", "low", "high")
# Table of maps -> what of it is shown, and in which column.
_SHOWN = {"depth_maps": ("RMSE m", 2), "class_maps": ("mean IoU", 5)}

Row = tuple[str | float | int, ...]


def robustness_tables(
    opened: OpenedRecorded, request: EvalRequest, report: Reporter
) -> dict[str, Table]:
    """Measures with every stream taken away, made noisy, and swapped in turn.

    What says nothing any more has no answer, which is wrong, and no error in depth.

    Returns:
        `robustness` of classes, and `robustness_maps`; one of them, or both.

    Raises:
        DataError: If the run has no head of classes, no rows to probe, and no maps.
    """
    recordings, name = recordings_of(opened, request.data, request.split)
    rows: list[Row] = []
    maps: list[Row] = []
    whole = judged_of(opened, recordings, name, report, only=request.source)
    tasks = _tasks(opened, replace(whole, asked=request.source))
    for case in cases(recordings):
        judged = (
            whole if not case else judged_of(opened, recordings, name, report, case, request.source)
        )
        gone = {s: _silent(value) for s, value in whole.rows.items() if s not in judged.rows}
        judged = replace(judged, rows={**judged.rows, **gone}, asked=request.source)
        told = str(case) or "as recorded"
        for task in tasks:
            tables = _MEASURES[task](opened, judged)
            if task == "maps":
                maps += [(told, *row) for row in _map_rows(tables, request.source)]
            else:
                rows += [(told, task, *row[:5], row[8]) for row in tables[task].rows]
    title = f"robustness of {whole.what}: streams taken away, with noise, and of another recording"
    found: dict[str, Table] = {}
    if rows:
        found["robustness"] = Table(title, _COLUMNS, tuple(rows))
    if maps:
        found["robustness_maps"] = Table(title, _MAP_COLUMNS, tuple(maps))
    return found


def cases(recordings: Recordings) -> list[Disturbance]:
    """What is tried, the undisturbed recordings first."""
    # Maps are what is asked for, not a stream that students see.
    kinds: list[Kind] = [kind for kind in recordings.kinds if kind in STREAMS and kind != "grids"]
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


def _map_rows(tables: Mapping[str, Table], asked: Sequence[str]) -> list[Row]:
    """Of each student of maps, the measure that is shown."""
    return [
        (row[0], row[1], measure, *row[column : column + 3])
        for name, (measure, column) in _SHOWN.items()
        for row in (tables[name].rows if name in tables else ())
        if not asked or row[0] in asked
    ]


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
