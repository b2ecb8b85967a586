"""The frozen part of a graph over recordings, and the windows that students see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.graph.ports import Kind
from xmodal.recordings.inputs import Clips
from xmodal.recordings.ragged import Stream, join, take_samples
from xmodal.recordings.recording import STREAMS, Recording, Recordings, duration_s, gather
from xmodal.runs.frozen import Reporter
from xmodal.values import Embedding, Grids, Labels

Rows = Embedding | Grids


@dataclass(eq=False)
class Prepared:
    """What a run needs of its recordings.

    Attributes:
        rows: Frozen nodes, one row or map for each recording.
        clips: Windows, by student.
        durations_s: Length of each recording.
    """

    rows: dict[str, Rows] = field(default_factory=dict[str, Rows])
    clips: dict[str, Clips] = field(default_factory=dict[str, Clips])
    durations_s: list[float] = field(default_factory=list[float])


def kept_nodes(graph: Graph) -> list[str]:
    """Frozen nodes that a run keeps: those with a row or a map for each recording."""
    return [
        name for name in graph.frozen_nodes() if graph.nodes[name].kind in ("embedding", "grids")
    ]


def clip_students(graph: Graph) -> dict[str, str]:
    """Students that look at windows, with the node of their stream."""
    return {
        name: edge.sources[0]
        for name, edge in graph.students().items()
        if hasattr(edge.op, "describe")
    }


def prepare(
    graph: Graph,
    recordings: Recordings,
    teachers: Mapping[str, Any],
    report: Reporter,
    *,
    given: Mapping[str, Rows],
    labelled: Sequence[int],
    clips: bool = True,
    partly: bool = False,
) -> Prepared:
    """Compute what depends on frozen parts alone, reading each recording once.

    Args:
        graph: The graph.
        recordings: The recordings.
        teachers: Its loaded teachers by node.
        report: Shows what is done.
        given: Frozen nodes that are there already.
        labelled: Recordings whose labels may be seen: those to train on.
        clips: Whether students' windows are wanted.
        partly: Leave out nodes and students whose sensors these recordings do not have, nodes whose
            teachers are not loaded, and what is made of labels.

    Raises:
        DataError: If no recording has a stream that is needed, or one is damaged.
    """
    sensors = _sensors(graph, recordings, partly=partly)
    whole = _whole(graph, recordings, sensors, labelled)
    done: dict[str, Any] = {**whole, **given}
    kept = [name for name in kept_nodes(graph) if name in given or _made_of(graph, name, sensors)]
    kept = [n for n in kept if n in given or not partly or _loaded(graph, n) <= teachers.keys()]
    wanted = [name for name in kept if name not in given]
    streamed = [name for name in wanted if _sees_streams(graph, name)]
    for name in (n for n in wanted if n not in streamed):
        if not graph.upstream(name) & {*streamed}:
            done[name] = graph.run(done, teachers=teachers, targets=[name])[name]
    seen = {n: s for n, s in clip_students(graph).items() if _made_of(graph, s, sensors)}
    seen = seen if clips else {}
    found, prepared = _read(graph, recordings, teachers, report, done, streamed, seen)
    done |= found
    for name in (n for n in wanted if n not in done):
        done[name] = graph.run(done, teachers=teachers, targets=[name])[name]
    for name in kept:
        _check_width(graph, name, done[name], len(recordings))
        prepared.rows[name] = done[name]
    return prepared


def _sensors(graph: Graph, recordings: Recordings, *, partly: bool) -> set[str]:
    """The sensors of the graph that these recordings have: all, unless some may lack.

    Labels of recordings that a trained run looks at teach nothing, and their classes may be others.
    """
    there = {
        name
        for name, node in graph.sensors().items()
        if node.kind in recordings.kinds and _has_map(recordings, node.kind, name)
        if not (partly and node.kind == "labels")
    }
    missing = sorted(graph.sensors().keys() - there)
    if missing and not partly:
        if graph.nodes[missing[0]].kind in recordings.kinds:
            raise DataError(
                f"recordings {recordings.name}, sensor `{missing[0]}`",
                wanted=f"a node named as one of the maps {', '.join(recordings.maps)}",
                got=f"`{missing[0]}`",
                fix="name the node as the map that it is to be",
            )
        raise DataError(
            f"recordings {recordings.name}, sensor `{missing[0]}`",
            wanted=f"at least one recording with {graph.nodes[missing[0]].kind}",
            got=f"recordings of {', '.join(recordings.kinds)}",
            fix="choose data with this sensor, or a graph without it",
        )
    return there


def _has_map(recordings: Recordings, kind: Kind, name: str) -> bool:
    """Whether grids are told by name, and this is a name; all other kinds need none."""
    return kind != "grids" or not recordings.maps or name in recordings.maps


def _loaded(graph: Graph, name: str) -> set[str]:
    """The teachers that must be loaded to make a node."""
    return graph.upstream(name) & graph.teachers().keys()


def _made_of(graph: Graph, name: str, sensors: set[str]) -> bool:
    """Whether all sensors that a node is made from are there."""
    return graph.upstream(name) & graph.sensors().keys() <= sensors


def _whole(
    graph: Graph, recordings: Recordings, sensors: set[str], labelled: Sequence[int]
) -> dict[str, Any]:
    """Sensors that are no streams, whole; labels of recordings to test on stay unknown."""
    found: dict[str, Any] = {}
    for name in sorted(sensors):
        kind = graph.nodes[name].kind
        if kind in STREAMS:
            continue
        value = gather(recordings, kind)
        if isinstance(value, Labels):
            known = torch.full_like(value.ids, -1)
            known[list(labelled)] = value.ids[list(labelled)]
            value = replace(value, ids=known)
        found[name] = value
    return found


def _sees_streams(graph: Graph, name: str) -> bool:
    """Whether the edge that makes a node works on streams."""
    edge = next(edge for edge in graph.order() if edge.target == name)
    return any(_is_stream(graph, source) for source in edge.sources)


def _is_stream(graph: Graph, name: str) -> bool:
    node = graph.nodes[name]
    return node.kind in STREAMS and (node.kind != "grids" or name in graph.sensors())


def _read(
    graph: Graph,
    recordings: Recordings,
    teachers: Mapping[str, Any],
    report: Reporter,
    whole: Mapping[str, Any],
    nodes: Sequence[str],
    students: Mapping[str, str],
) -> tuple[dict[str, Rows], Prepared]:
    """One pass over the recordings: rows of nodes on streams, and windows."""
    sensors: dict[str, Kind] = {
        n: node.kind for n, node in graph.sensors().items() if node.kind in STREAMS
    }
    parts: dict[str, list[Rows | None]] = {name: [] for name in nodes}
    windows: dict[str, list[Clips | None]] = {name: [] for name in students}
    ops = graph.students()
    makers = {edge.target: edge.sources for edge in graph.order()}
    prepared = Prepared()
    with report("recordings") as progress:
        for index, item in enumerate(recordings.items):
            streams = {n: value for n, kind in sensors.items() if (value := item.read(kind, n))}
            prepared.durations_s.append(_length(item, streams))
            values: dict[str, Any] = {n: take_samples(v, [index]) for n, v in whole.items()}
            values |= streams
            can = [n for n in (*nodes, *students.values()) if _possible(makers, n, values)]
            if any(name not in values for name in can):
                values = graph.run(values, teachers=teachers, targets=can)
            for name, mine in parts.items():
                mine.append(values.get(name) if name in can else None)
            for name, mine in windows.items():
                source = students[name]
                op: Any = ops[name].op
                mine.append(op.describe(values[source]) if source in can else None)
            progress(index + 1, len(recordings))
    where = f"recordings {recordings.name}"
    found = {n: join(_filled(n, mine, where), f"{where}, node `{n}`") for n, mine in parts.items()}
    prepared.clips = {n: _joined(n, mine, where) for n, mine in windows.items()}
    return found, prepared


def _possible(makers: Mapping[str, Sequence[str]], name: str, values: Mapping[str, Any]) -> bool:
    """Whether a recording has all streams that a node is made from."""
    if name in values:
        return True
    return name in makers and all(_possible(makers, s, values) for s in makers[name])


def _length(item: Recording, streams: Mapping[str, Stream]) -> float:
    first: Kind | None = next((kind for kind in STREAMS if kind in item.streams), None)
    if first is None:
        return float("nan")
    value = next((v for v in streams.values() if type(v).__name__.lower() == first), None)
    value = item.read(first) if value is None else value
    return float("nan") if value is None else duration_s(value)


def _filled(name: str, parts: Sequence[Any], where: str) -> list[Any]:
    """Rows of all recordings; one that is not valid for those without the stream."""
    like = next((part for part in parts if part is not None), None)
    if like is None:
        raise _nothing(name, where)
    hollow = take_samples(like, [0])
    hollow = replace(
        hollow,
        rows=torch.zeros_like(hollow.rows),
        valid=torch.zeros_like(hollow.valid),
        weight=torch.zeros_like(hollow.weight),
    )
    return [hollow if part is None else part for part in parts]


def _joined(name: str, parts: Sequence[Clips | None], where: str) -> Clips:
    given = [part for part in parts if part is not None and len(part.inputs)]
    if not given:
        raise _nothing(name, where)
    sizes = torch.tensor([0, *(0 if part is None else len(part.inputs) for part in parts)])
    return Clips(torch.cat([part.inputs for part in given]), sizes.cumsum(0))


def _nothing(name: str, where: str) -> DataError:
    return DataError(
        f"{where}, node `{name}`",
        wanted="at least one recording with the stream that it is made from",
        got="none",
        fix="check that the files are there and hold more than an empty stream",
    )


def _check_width(graph: Graph, name: str, value: Rows, num: int) -> None:
    wanted = graph.nodes[name].channels
    if wanted is not None and value.rows.shape[1] != wanted:
        raise DataError(
            f"graph {graph.name}, node `{name}`",
            wanted=f"{wanted} channels, as the graph says",
            got=f"{value.rows.shape[1]}",
            fix=f"write `channels: {value.rows.shape[1]}`",
        )
    if len(value.offsets) - 1 != num:
        raise DataError(
            f"graph {graph.name}, node `{name}`",
            wanted=f"a row for each of {num} recordings",
            got=f"{len(value.offsets) - 1}",
            fix="the op that makes it is at fault: it must keep all samples",
        )
