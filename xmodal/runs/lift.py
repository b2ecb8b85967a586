"""`xmodal lift`: compute what depends on frozen parts alone, once, and keep it in a RUN folder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmodal.atomic import remove_leftovers, temporary_name, write_text
from xmodal.config.run_parts import Data
from xmodal.config.runfile import RunFile, load_run
from xmodal.datasets import Scene, open_scene
from xmodal.errors import DataError, UsageError
from xmodal.graph import Edge, Graph
from xmodal.ply import write_points
from xmodal.runs.log import RunLog, peak_memory_mb
from xmodal.runs.settings import (
    TARGETS,
    default_runfile,
    open_run_scene,
    parse_bytes,
    sensor_values,
    teacher_op,
)
from xmodal.store import FeatureInfo, Run, create_run, fingerprint_of
from xmodal.teachers.cache import CachedViews, TeacherCache
from xmodal.teachers.weights import user_cache
from xmodal.values import Image, Points, Views

if TYPE_CHECKING:
    from xmodal.teachers import Teacher

Report = Callable[[int, int], None]
Reporter = Callable[[str], AbstractContextManager[Report]]
LIFTED = "lifted"


@dataclass(frozen=True, kw_only=True)
class LiftRequest:
    """What to lift; the fields are the options of the command line."""

    source: Path
    out: Path
    teacher: str = "embedded"
    to: str = "points"
    voxel_m: float = 0.02
    max_frames: int | None = None
    disk_budget: str = "4GB"
    cache: Path | None = None
    overwrite: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LiftResult:
    """What was lifted, for the terminal."""

    run: Run
    info: FeatureInfo
    num_views: int
    seconds: float
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """A few lines."""
        seen = 100 * self.info.num_valid / max(self.info.num_points, 1)
        lines = [
            *self.notes,
            f"lifted {self.info.channels} channels of {self.info.teacher} from {self.num_views} "
            f"views to {self.info.num_points} points, {seen:.1f} % observed",
            f"{self.seconds:.0f} s, peak memory {peak_memory_mb():.0f} MB -> {self.run.path}",
        ]
        return "\n".join("  " + line for line in lines)


def lift_run(request: LiftRequest, report: Reporter) -> LiftResult:
    """Lift a scene, or what a run file says, into a RUN folder.

    A run that is already there with the same fingerprint is not computed again.

    Raises:
        UsageError: If `--out` holds something else.
        DataError: If the scene is damaged.
    """
    if request.to not in TARGETS:
        raise UsageError(
            f"--to {request.to}",
            wanted=f"one of {', '.join(TARGETS)}",
            got=request.to,
            fix="--to points",
        )
    parse_bytes(request.disk_budget)
    spec, scene = _spec_and_scene(request)
    return lift_spec(spec, scene, request, report)


def lift_spec(spec: RunFile, scene: Scene, request: LiftRequest, report: Reporter) -> LiftResult:
    """Lift one scene as a run file says."""
    teachers = load_teachers(spec.graph)
    fingerprint = lift_fingerprint(spec.graph, scene, teachers)
    run = create_run(request.out, fingerprint, overwrite=request.overwrite)
    log = RunLog(run.path / "log.jsonl")
    if run.has(LIFTED) and (run.path / "manifest.json").is_file():
        info = run.features(LIFTED).info
        return LiftResult(
            run=run,
            info=info,
            num_views=len(scene.images),
            seconds=log.elapsed_s,
            notes=("already lifted with the same teacher, graph and frames; nothing to do",),
        )
    remove_leftovers(run.path)
    with report("points") as progress:
        cloud = scene.cloud(progress)
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    write_points(run.points, cloud)
    log.write("cloud", points=len(cloud.xyz), frames=len(scene.images))
    cache = teacher_cache(request.cache, request.disk_budget)
    lifted = lift_nodes(spec.graph, scene, cloud, teachers, cache, report, scratch=run.path)
    for name, points in lifted.items():
        info = _info(spec.graph, name, points, teachers, fingerprint)
        run.write_features(name, info, **feature_arrays(points))
    run.finish(
        fingerprint=fingerprint,
        scene=str(scene.root),
        scene_fingerprint=scene.fingerprint,
        teachers={n: _teacher_record(t) for n, t in teachers.items()},
        frames=len(scene.images),
        report=scene.report.lines(),
        lift_seconds=round(log.elapsed_s, 1),
        lift_peak_mb=round(peak_memory_mb()),
    )
    log.write("lifted", peak_mb=round(peak_memory_mb()))
    return LiftResult(
        run=run,
        info=run.features(LIFTED).info,
        num_views=len(scene.images),
        seconds=log.elapsed_s,
        notes=tuple(scene.report.lines()),
    )


def lift_nodes(
    graph: Graph,
    scene: Scene,
    cloud: Points,
    teachers: dict[str, Teacher],
    cache: TeacherCache,
    report: Reporter,
    *,
    scratch: Path,
) -> dict[str, Points]:
    """Compute every frozen node of points with features; rows lie in files of `scratch`.

    The files have no name by the time this returns: they vanish with the tensors.
    """
    wanted = [
        name
        for name in graph.frozen_nodes()
        if graph.nodes[name].kind == "points" and graph.nodes[name].channels is not None
    ]
    if LIFTED not in wanted:
        raise DataError(
            f"graph {graph.name}",
            wanted=f"a frozen node of points named {LIFTED!r}",
            got=f"frozen nodes of points: {', '.join(wanted) or 'none'}",
            fix=f"name the node that queries should ask {LIFTED!r}",
        )
    values = sensor_values(graph, scene, cloud)

    def wrap(edge: Edge, teacher: Teacher, views: Views[Image]) -> Views[Any]:
        # A second instance does the work and goes, so that a gigabyte of network and scratch
        # memory is gone before the lift begins; the first never loads its weights.
        op: Any = edge.op
        worker = CachedViews(views, op.teacher(), cache)
        with report(teacher.name) as progress:
            for index in range(len(worker)):
                worker[index]
                progress(index + 1, len(worker))
        return CachedViews(views, teacher, cache)

    def extras(edge: Edge) -> dict[str, Any]:
        width = graph.nodes[edge.target].channels or 1
        return {"out": _file_tensor(scratch, (len(cloud.xyz), width)), "progress": lifting}

    with report("lift") as lifting:
        values = graph.run(values, teachers=teachers, targets=wanted, wrap=wrap, extras=extras)
    found: dict[str, Points] = {}
    for name in wanted:
        value = values[name]
        assert isinstance(value, Points)  # the graph was checked: the node's kind is points
        found[name] = value
    return found


def load_teachers(graph: Graph) -> dict[str, Teacher]:
    """The graph's teachers by node; weights are read when the first image arrives."""
    teachers: dict[str, Teacher] = {}
    for name, edge in graph.teachers().items():
        op: Any = edge.op
        teachers[name] = op.teacher()
    return teachers


def lift_fingerprint(graph: Graph, scene: Scene, teachers: dict[str, Teacher]) -> str:
    """What lifted features depend on: teachers, the frozen part of the graph, frames."""
    return fingerprint_of(
        teachers={name: teacher.fingerprint for name, teacher in teachers.items()},
        graph=graph.frozen_fingerprint(),
        scene=scene.fingerprint,
        format=1,
    )


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
    return {
        "rows": points.rows.detach().cpu().numpy(),
        "valid": array(points.valid, np.bool_, 1.0),
        "weight": array(points.weight, np.float32, 1.0),
        "num_views": array(points.num_views, np.int32, 0.0),
        "disagreement": array(points.disagreement, np.float32, 0.0),
    }


def _spec_and_scene(request: LiftRequest) -> tuple[RunFile, Scene]:
    if request.source.suffix in (".yaml", ".yml"):
        spec = load_run(request.source)
        if request.max_frames is not None:
            spec = replace(spec, data=replace(spec.data, max_frames=request.max_frames))
        return spec, open_run_scene(spec)
    op = teacher_op(request.teacher)
    scene = open_scene(request.source, voxel_m=request.voxel_m, max_frames=request.max_frames)
    data = Data(scene=str(scene.root), voxel_m=request.voxel_m, max_frames=request.max_frames)
    return default_runfile(scene, op, data, request.seed), scene


def _info(
    graph: Graph, name: str, points: Points, teachers: dict[str, Teacher], fingerprint: str
) -> FeatureInfo:
    first = next(iter(teachers.values()))
    valid = points.valid
    return FeatureInfo(
        teacher=first.name,
        space=graph.space(name) or first.space,
        channels=graph.nodes[name].channels or 0,
        num_points=len(points.xyz),
        num_valid=len(points.xyz) if valid is None else int(valid.sum()),
        fingerprint=fingerprint,
        cosine_error=0.0,
        licence=first.licence,
    )


def _teacher_record(teacher: Teacher) -> dict[str, Any]:
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
