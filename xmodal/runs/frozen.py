"""The frozen part of a graph at work on one scene: what `lift` computes once and keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmodal.atomic import temporary_name
from xmodal.datasets import Scene
from xmodal.errors import ConfigError, DataError
from xmodal.graph import Edge, Graph
from xmodal.runs.settings import parse_bytes, sensor_values
from xmodal.splats.values import centres
from xmodal.store import FeatureInfo, fingerprint_of
from xmodal.teachers.cache import CachedViews, TeacherCache
from xmodal.teachers.weights import user_cache
from xmodal.values import Frames, Gaussians, Image, Labels, Points, PointSets, Views

if TYPE_CHECKING:
    from xmodal.teachers import Teacher

Lifted = Points | PointSets | Frames
"""What a run keeps of a frozen node; splats are kept as their centres."""

Report = Callable[[int, int], None]
Reporter = Callable[[str], AbstractContextManager[Report]]
# The node that queries ask, by custom.
LIFTED = "lifted"
# Kinds that are kept to teach with, but have no row for each point.
_NOT_POINTS = ("point_sets", "frames")


def stored_nodes(graph: Graph, scene: Scene) -> list[str]:
    """The frozen nodes that a run keeps: points or splats with features, sets, frames.

    `lifted` comes first, sets and frames last.

    Nodes made from labels are left out where the scene has none.

    Raises:
        DataError: If there are none.
    """
    labels = {name for name, node in graph.sensors().items() if node.kind == "labels"}
    if scene.labels() is not None:
        labels = set()
    wanted = [
        name
        for name in graph.frozen_nodes()
        if graph.nodes[name].kind in ("points", "gaussians", *_NOT_POINTS)
        and graph.nodes[name].channels is not None
        and not graph.upstream(name) & labels
    ]
    wanted.sort(key=lambda name: (graph.nodes[name].kind in _NOT_POINTS, name != LIFTED))
    if not wanted or graph.nodes[wanted[0]].kind in _NOT_POINTS:
        raise DataError(
            f"graph {graph.name}",
            wanted="a frozen node of points or splats with features, to be asked and taught from",
            got=", ".join(wanted) or "none",
            fix="lift a teacher's output to a node of points, named `lifted` by custom",
        )
    return wanted


def splats_node(graph: Graph) -> str | None:
    """The bare splats that the kept nodes of a graph stand on; None in a graph over points.

    Raises:
        ConfigError: If there are several.
    """
    frozen = graph.frozen_nodes()
    bare = [
        name
        for name, node in graph.nodes.items()
        if node.kind == "gaussians" and node.channels is None
        if name in frozen or name in graph.sensors()
    ]
    if len(bare) > 1:
        raise ConfigError(
            f"graph {graph.name}",
            wanted="one node of bare splats, which all features of a run belong to",
            got=", ".join(bare),
            fix="lift to one of them, and write a graph of its own for the other",
        )
    return bare[0] if bare else None


@dataclass(frozen=True)
class Lifting:
    """One scene on its way through the frozen part of a graph.

    Attributes:
        graph: The graph.
        scene: The scene.
        cloud: The scene's points; None where no node asks for them.
        teachers: The graph's teachers, by node.
        cache: Their output.
        report: Shows what is done.
        given: Nodes that are there already.
    """

    graph: Graph
    scene: Scene
    cloud: Points | None
    teachers: Mapping[str, Teacher]
    cache: TeacherCache
    report: Reporter
    given: Mapping[str, Gaussians] = field(default_factory=dict[str, Gaussians])

    def splats(self, name: str) -> Gaussians:
        """Fit or read the bare splats of the scene."""
        values = sensor_values(self.graph, self.scene, self.cloud)
        with self.report("splats") as progress:
            values = self.graph.run(
                values, targets=[name], extras=lambda _edge: {"progress": progress}
            )
        found = values[name]
        assert isinstance(found, Gaussians)  # the graph was checked
        return found

    def nodes(self, wanted: Sequence[str], *, scratch: Path) -> dict[str, Lifted]:
        """Compute frozen nodes; rows of points lie in files of `scratch`.

        The files have no name by the time this returns: they vanish with the tensors. Splats are
        given as their centres.
        """
        if not wanted:
            return {}
        values: dict[str, Any] = sensor_values(self.graph, self.scene, self.cloud)
        values |= self.given
        sizes = [len(value.means) for value in self.given.values()]
        sizes += [] if self.cloud is None else [len(self.cloud.xyz)]

        def extras(edge: Edge) -> dict[str, Any]:
            node = self.graph.nodes[edge.target]
            if node.kind not in ("points", "gaussians"):
                return {"progress": lifting}
            shape = (sizes[0], node.channels or 1)
            return {"out": _file_tensor(scratch, shape), "progress": lifting}

        with self.report("lift") as lifting:
            values = self.graph.run(
                values, teachers=self.teachers, targets=wanted, wrap=self._kept, extras=extras
            )
        found: dict[str, Lifted] = {}
        for name in wanted:
            value = values[name]
            value = centres(value) if isinstance(value, Gaussians) else value
            assert isinstance(value, (Points, PointSets, Frames))  # the graph was checked
            found[name] = value
        return found

    def _kept(self, edge: Edge, teacher: Teacher, views: Views[Image]) -> Views[Any]:
        """The teacher's output of all views, from the cache."""
        # A second instance does the work and goes, so that a gigabyte of network and scratch
        # memory is gone before the lift begins; the first never loads its weights.
        op: Any = edge.op
        worker = CachedViews(views, op.teacher(), self.cache)
        with self.report(teacher.name) as progress:
            for index in range(len(worker)):
                worker[index]
                progress(index + 1, len(worker))
        return CachedViews(views, teacher, self.cache)


def made_from(
    graph: Graph, scene: Scene, teachers: Mapping[str, Teacher], name: str | None = None
) -> dict[str, Any]:
    """What lifted features depend on: teachers, the frozen part of the graph, frames.

    Args:
        graph: The graph.
        scene: The scene.
        teachers: The graph's teachers, by node.
        name: What one frozen node depends on; all of them if None.

    Returns:
        Readable parts; `fingerprint_of` them is the fingerprint of a store or a run.
    """
    above = graph.nodes.keys() if name is None else graph.upstream(name)
    asked = [n for n, node in graph.sensors().items() if node.kind == "labels" and n in above]
    labels = {"labels": _digest(scene.labels())} if asked else {}
    return labels | {
        "teachers": {n: teacher.fingerprint for n, teacher in teachers.items() if n in above},
        "graph": graph.frozen_part(name),
        "scene": scene.fingerprint,
        "format": 1,
    }


def _digest(labels: Labels | None) -> str:
    if labels is None:
        return "none"
    ids = hashlib.sha256(labels.ids.to(torch.int64).numpy().tobytes()).hexdigest()
    return fingerprint_of(ids=ids, classes=labels.classes)


def lift_fingerprint(graph: Graph, scene: Scene, teachers: Mapping[str, Teacher]) -> str:
    """Hash of everything that the lifted features of a scene depend on."""
    return fingerprint_of(**made_from(graph, scene, teachers))


def load_teachers(graph: Graph) -> dict[str, Teacher]:
    """The graph's teachers by node; weights are read when the first image arrives."""
    teachers: dict[str, Teacher] = {}
    for name, edge in graph.teachers().items():
        op: Any = edge.op
        teachers[name] = op.teacher()
    return teachers


def teacher_cache(folder: Path | None, budget: str) -> TeacherCache:
    """The cache of teacher output, in the user's cache folder unless another is given."""
    return TeacherCache(folder or user_cache() / "teachers", parse_bytes(budget))


def feature_arrays(points: Points) -> dict[str, Any]:
    """The arrays of a feature store from points with features."""
    size = len(points.xyz)

    def array(value: torch.Tensor | None, kind: type, fill: float) -> Any:
        if value is None:
            return np.full(size, fill, dtype=kind)
        return value.detach().cpu().numpy().astype(kind, copy=False)

    if points.rows is None:
        raise ValueError("points without features cannot be stored")
    segments = {} if points.segments is None else {"segments": points.segments.cpu().numpy()}
    return segments | {
        "rows": points.rows.detach().cpu().numpy(),
        "valid": array(points.valid, np.bool_, 1.0),
        "weight": array(points.weight, np.float32, 1.0),
        "num_views": array(points.num_views, np.int32, 0.0),
        "disagreement": array(points.disagreement, np.float32, 0.0),
    }


def node_info(
    graph: Graph,
    name: str,
    value: Lifted,
    teachers: Mapping[str, Teacher],
    fingerprint: str,
) -> FeatureInfo:
    """What a store says of a frozen node."""
    above = [teacher for node, teacher in teachers.items() if node in graph.upstream(name)]
    valid = value.valid
    size = len(value.xyz) if isinstance(value, Points) else len(value.rows)
    maker = next(edge for edge in graph.order() if edge.target == name)
    return FeatureInfo(
        teacher=above[0].name if above else maker.op.op,
        space=graph.space(name) or (above[0].space if above else "raw"),
        channels=graph.nodes[name].channels or 0,
        num_points=size,
        num_valid=size if valid is None else int(valid.sum()),
        fingerprint=fingerprint,
        cosine_error=0.0,
        licence=above[0].licence if above else "",
        classes=getattr(maker.op, "row_names", ()),
    )


def teacher_record(teacher: Teacher) -> dict[str, Any]:
    """What a manifest says of a teacher."""
    return {
        "name": teacher.name,
        "fingerprint": teacher.fingerprint,
        "licence": teacher.licence,
        "channels": teacher.channels,
        "space": teacher.space,
    }


def _file_tensor(folder: Path, shape: tuple[int, int]) -> torch.Tensor:
    """A float32 tensor over a file without a name, so that nothing is left when a run dies."""
    path = temporary_name(folder / "rows")
    array = np.memmap(path, dtype=np.float32, mode="w+", shape=(max(shape[0], 1), shape[1]))
    path.unlink()
    return torch.from_numpy(array[: shape[0]])


@contextmanager
def silent(_label: str) -> Generator[Report]:
    """A reporter that shows nothing."""
    yield lambda _done, _total: None
