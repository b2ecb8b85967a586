"""Measures of dense maps that students hear or see."""

from __future__ import annotations

import numpy as np

from xmodal.errors import DataError
from xmodal.evaluate.dense import cell_classes, depth_errors
from xmodal.evaluate.tables import Table
from xmodal.graph import Graph
from xmodal.runs.recorded.judged import Judged, OpenedRecorded
from xmodal.values import Embedding, Grids

Row = tuple[str | float | int, ...]


def map_tables(opened: OpenedRecorded, judged: Judged) -> dict[str, Table]:
    """Students of maps against recorded maps that taught them.

    A map of one channel is of depths, one of several has a channel for each class. A cell without
    an answer is of no class, which is wrong; it has no depth, and no error in depth.
    """
    depths: list[Row] = []
    classes: list[Row] = []
    for student, truth in taught_pairs(opened, judged):
        given, wanted = judged.rows[student], judged.rows[truth]
        assert isinstance(wanted, Grids), "pairs are of maps"
        shape = (len(judged), -1)
        known = (wanted.valid & (wanted.weight > 0)).reshape(shape).numpy()
        answered = given.valid.reshape(shape).numpy()
        if wanted.rows.shape[1] == 1:
            found = depth_errors(
                given.rows[:, 0].double().reshape(shape).numpy(),
                wanted.rows[:, 0].double().reshape(shape).numpy(),
                known & answered,
                judged.groups,
            )
            depths.append((student, len(judged), *(number for part in found for number in part)))
            continue
        accuracy, mean, _ = cell_classes(
            np.where(answered, given.rows.argmax(dim=1).reshape(shape).numpy(), -1),
            wanted.rows.argmax(dim=1).reshape(shape).numpy().astype(np.int64),
            known,
            judged.groups,
            wanted.rows.shape[1],
        )
        classes.append((student, len(judged), *accuracy, *mean))
    tables: dict[str, Table] = {}
    if depths:
        head = ("source", "recordings", "RMSE m", "low", "high", "relative", "low", "high",
                "within 1.25", "low", "high")  # fmt: skip
        tables["depth_maps"] = Table(f"depth: {judged.what}", head, tuple(depths))
    if classes:
        head = ("source", "recordings", "accuracy", "low", "high", "mean IoU", "low", "high")
        tables["class_maps"] = Table(f"classes of cells: {judged.what}", head, tuple(classes))
    if not tables:
        raise DataError(
            str(opened.run.path),
            wanted="a student of dense maps, and the maps of these recordings",
            got=f"rows of {', '.join(judged.rows)}",
            fix="teach a `grid_decoder` from a recorded map, lifted with {op: cells}",
        )
    return tables


def taught_pairs(opened: OpenedRecorded, judged: Judged) -> list[tuple[str, str]]:
    """Students and heads of maps, with the recorded map that they, or their teacher, learnt."""
    graph, found = opened.spec.graph, list[tuple[str, str]]()
    for edge in graph.losses():
        for teacher in edge.sources:
            head = f"{edge.target}.{teacher}"
            student = head if head in judged.rows else edge.target
            given = judged.rows.get(student)
            if given is None or isinstance(given, Embedding):
                continue
            for truth in _truths(graph, teacher):
                fits = truth in judged.rows and given.rows.shape == judged.rows[truth].rows.shape
                if fits and (student, truth) not in found:
                    found.append((student, truth))
    return found


def _truths(graph: Graph, teacher: str) -> list[str]:
    """The recorded maps behind a teacher: itself, or those that taught it."""
    waiting, seen, found = [teacher], set[str](), list[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if _recorded(graph, name):
            found.append(name)
        waiting += [s for edge in graph.losses() if edge.target == name for s in edge.sources]
    return found


def _recorded(graph: Graph, node: str) -> bool:
    """Whether rows come from recorded maps alone, and no network was asked."""
    above = graph.upstream(node)
    kinds = [sensor.kind for name, sensor in graph.sensors().items() if name in above]
    return kinds == ["grids"] and not above & {*graph.teachers(), *graph.students()}
