"""`xmodal lift`: compute what depends on frozen parts alone, once, and keep it in a RUN folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xmodal.atomic import remove_leftovers, sha256_file, write_text
from xmodal.config.run_parts import Data
from xmodal.config.runfile import RunFile, load_run
from xmodal.datasets import Scene, open_scene
from xmodal.errors import DataError, UsageError
from xmodal.ply import write_points
from xmodal.runs.frozen import (
    Lifting,
    Reporter,
    feature_arrays,
    lift_fingerprint,
    load_teachers,
    made_from,
    node_info,
    silent,
    splats_node,
    stored_nodes,
    teacher_cache,
    teacher_record,
)
from xmodal.runs.log import RunLog, peak_memory_mb
from xmodal.runs.scenes import SCENES, adopt, scene_folder
from xmodal.runs.settings import (
    TARGETS,
    default_fit,
    default_runfile,
    open_run_scene,
    parse_bytes,
    splats_runfile,
    teacher_op,
)
from xmodal.splats.files import read_splats, write_splats
from xmodal.splats.values import as_gaussians, as_splats, centres
from xmodal.store import FeatureInfo, Run, create_run, fingerprint_of
from xmodal.values import Frames, PointSets


@dataclass(frozen=True, kw_only=True)
class LiftRequest:
    """What to lift; the fields are the options of the command line.

    `store` is another run, whose features are taken over where they are the same. `splats` and
    `steps` are of a fit of splats: how many, and how many pictures are shown.
    """

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
    store: Path | None = None
    splats: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class LiftResult:
    """What was lifted, for the terminal; over several scenes, `info` and `num_views` add up.

    Of recordings `text` says it all.
    """

    run: Run
    info: FeatureInfo
    num_views: int
    seconds: float
    notes: tuple[str, ...] = ()
    text: str | None = None

    def summary(self) -> str:
        """A few lines."""
        if self.text is not None:
            return self.text
        what = "splats" if self.run.gaussians.is_file() else "points"
        seen = 100 * self.info.num_valid / max(self.info.num_points, 1)
        lines = [
            *self.notes,
            f"lifted {self.info.channels} channels of {self.info.teacher} from {self.num_views} "
            f"views to {self.info.num_points} {what}, {seen:.1f} % observed",
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
    _check_fit(request)
    return lift_spec(_spec(request), request, report)


def lift_spec(spec: RunFile, request: LiftRequest, report: Reporter) -> LiftResult:
    """Lift the scene, the scenes or the recordings of a run file; see `lift_run`."""
    if spec.data.has_recordings:
        return _lift_recordings(spec, request, report)
    if spec.data.is_many:
        return _lift_scenes(spec, request, report)
    return _lift_scene(spec, open_run_scene(spec), request, report)


def _lift_recordings(spec: RunFile, request: LiftRequest, report: Reporter) -> LiftResult:
    from xmodal.runs.recorded.train import lift_recordings

    run, node, seconds, text = lift_recordings(spec, request, report)
    info = run.info(node)
    return LiftResult(run=run, info=info, num_views=info.num_sources, seconds=seconds, text=text)


def _lift_scenes(spec: RunFile, request: LiftRequest, report: Reporter) -> LiftResult:
    """Lift every scene of a run file, each into a RUN folder of its own under `RUN/scenes`.

    Raises:
        DataError: If the run file names no scene that is there.
    """
    folders = spec.data.scenes
    if not folders:
        raise DataError(
            f"run {spec.name}, data.scene",
            wanted="at least one scene folder",
            got=f"none that matches {spec.data.scene}",
            fix="make or download the scenes, and run from the folder that the paths start at",
        )
    scenes = [open_run_scene(spec, index) for index in range(len(folders))]
    teachers = load_teachers(spec.graph)
    whole = [lift_fingerprint(spec.graph, scene, teachers) for scene in scenes]
    run = create_run(request.out, fingerprint_of(scenes=whole), overwrite=request.overwrite)
    # First, so that a run that is killed is known for one and goes on where it stopped.
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    log = RunLog(run.path / "log.jsonl")
    results: list[LiftResult] = []
    with report("scenes") as progress:
        for folder, scene in zip(folders, scenes, strict=True):
            progress(len(results), len(folders))
            inner = replace(
                request,
                out=run.path / SCENES / folder.name,
                store=scene_folder(request.store, folder.name),
            )
            results.append(_lift_scene(spec.of_scene(folder), scene, inner, silent))
        progress(len(folders), len(folders))
    run.finish(fingerprint=fingerprint_of(scenes=whole), lift_seconds=round(log.elapsed_s, 1))
    infos = [result.info for result in results]
    total = replace(
        infos[0],
        num_points=sum(info.num_points for info in infos),
        num_valid=sum(info.num_valid for info in infos),
    )
    return LiftResult(
        run=run,
        info=total,
        num_views=sum(result.num_views for result in results),
        seconds=log.elapsed_s,
        notes=(f"{len(folders)} scenes",),
    )


def _lift_scene(spec: RunFile, scene: Scene, request: LiftRequest, report: Reporter) -> LiftResult:
    """Lift one scene as a run file says."""
    teachers = load_teachers(spec.graph)
    parts = made_from(spec.graph, scene, teachers)
    fingerprint = fingerprint_of(**parts)
    run = create_run(request.out, fingerprint, overwrite=request.overwrite, made_from=parts)
    log = RunLog(run.path / "log.jsonl")
    wanted = stored_nodes(spec.graph, scene)
    if all(run.has(name) for name in wanted) and (run.path / "manifest.json").is_file():
        return LiftResult(
            run=run,
            info=run.info(wanted[0]),
            num_views=len(scene.images),
            seconds=log.elapsed_s,
            notes=("already lifted with the same teacher, graph and frames; nothing to do",),
        )
    remove_leftovers(run.path)
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    cache = teacher_cache(request.cache, request.disk_budget)
    lifting = _with_geometry(Lifting(spec.graph, scene, None, teachers, cache, report), run)
    log.write("geometry", frames=len(scene.images), seconds=round(log.elapsed_s, 1))
    of_node = {
        name: made_from(spec.graph, scene, teachers, name) | _geometry(lifting, run)
        for name in wanted
    }
    prints = {name: fingerprint_of(**parts) for name, parts in of_node.items()}
    missing = [name for name in wanted if not adopt(request.store, run, name, prints[name])]
    for name, value in lifting.nodes(missing, scratch=run.path).items():
        info = node_info(spec.graph, name, value, teachers, prints[name])
        if isinstance(value, PointSets):
            run.write_sets(name, info, value, made_from=of_node[name])
        elif isinstance(value, Frames):
            run.write_frames(name, info, value, made_from=of_node[name])
        else:
            arrays = feature_arrays(value)
            codec = spec.store.codec
            run.write_features(name, info, made_from=of_node[name], codec=codec, **arrays)
    run.finish(
        fingerprint=fingerprint,
        made_from=parts,
        scene=str(scene.root),
        scene_fingerprint=scene.fingerprint,
        teachers={n: teacher_record(t) for n, t in teachers.items()},
        frames=len(scene.images),
        report=scene.report.lines(),
        lift_seconds=round(log.elapsed_s, 1),
        lift_peak_mb=round(peak_memory_mb()),
    )
    log.write("lifted", peak_mb=round(peak_memory_mb()))
    return LiftResult(
        run=run,
        info=run.info(wanted[0]),
        num_views=len(scene.images),
        seconds=log.elapsed_s,
        notes=tuple(scene.report.lines()),
    )


def _with_geometry(lifting: Lifting, run: Run) -> Lifting:
    """Make what features will belong to, and keep it: the scene's points, or splats."""
    graph, scene = lifting.graph, lifting.scene
    node = splats_node(graph)
    if node is None or any(n.kind == "points" for n in graph.sensors().values()):
        with lifting.report("points") as progress:
            lifting = replace(lifting, cloud=scene.cloud(progress))
    if node is None:
        assert lifting.cloud is not None, "made above"
        write_points(run.points, lifting.cloud)
        return lifting
    write_splats(run.gaussians, as_splats(lifting.splats(node), str(run.path)))
    # As the file has them: a run that goes on later must work with the same numbers.
    splats = as_gaussians(read_splats(run.gaussians))
    write_points(run.points, centres(splats))
    return replace(lifting, given={node: splats})


def _geometry(lifting: Lifting, run: Run) -> dict[str, str]:
    """What rows belong to beside graph and frames: splats that were fitted, to the bit.

    Two fits with the same settings may differ, on machines with other arithmetic for instance; rows
    of the one would be wrong on the other without a word.
    """
    return {"splats": sha256_file(run.gaussians)} if lifting.given else {}


def _spec(request: LiftRequest) -> RunFile:
    if request.source.suffix in (".yaml", ".yml"):
        spec = load_run(request.source)
        if request.max_frames is not None:
            spec = replace(spec, data=replace(spec.data, max_frames=request.max_frames))
        return spec
    op = teacher_op(request.teacher)
    scene = open_scene(
        request.source,
        voxel_m=request.voxel_m,
        max_frames=request.max_frames,
        need=("views",) if request.to == "gaussians" else ("views", "points"),
    )
    data = Data(scene=str(scene.root), voxel_m=request.voxel_m, max_frames=request.max_frames)
    if request.to == "gaussians":
        fit = default_fit(scene, num=request.splats, steps=request.steps, seed=request.seed)
        return splats_runfile(scene, op, data, request.seed, fit)
    return default_runfile(scene, op, data, request.seed)


def _check_fit(request: LiftRequest) -> None:
    """Refuse options of a fit where there is none, and numbers that no fit can have."""
    given = {"--splats": request.splats, "--steps": request.steps}
    from_file = request.source.suffix in (".yaml", ".yml")
    for option, value in given.items():
        if value is None:
            continue
        if request.to != "gaussians" or from_file:
            raise UsageError(
                f"{option} {value}",
                wanted="--to gaussians and a scene, whose splats are fitted",
                got="a run file, which says it itself" if from_file else f"--to {request.to}",
                fix=f"leave {option} out",
            )
        least = 1 if option == "--splats" else 0
        if value < least:
            raise UsageError(
                f"{option} {value}", wanted=f"{least} or more", got=str(value), fix="leave it out"
            )
