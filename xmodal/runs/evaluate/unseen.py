"""A run applied to a scene that it was not made from: lifted anew, its student on new points."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from xmodal.atomic import sha256_file, write_text
from xmodal.config.runfile import RunFile
from xmodal.datasets import Scene
from xmodal.errors import UsageError
from xmodal.graph import Graph
from xmodal.ply import write_points
from xmodal.runs.frozen import Reporter
from xmodal.runs.lift import LiftRequest, lift_spec
from xmodal.runs.scenes import home_of, scene_runs
from xmodal.runs.students import load_learners, refuse_bound, write_answers
from xmodal.store import Run, create_run, fingerprint_of
from xmodal.teachers.teacher import FrameFiles
from xmodal.train.checkpoint import checkpoints
from xmodal.values import Points


def run_on(
    trained: Run, spec: RunFile, source: Scene | Path, cloud: Points, out: Path, report: Reporter
) -> Run:
    """Make the run of another scene: features lifted by the same graph, rows of the same students.

    What is there already from the same scene, graph and checkpoint is not computed again.

    Args:
        trained: The run whose graph and students are used.
        spec: Its run file.
        source: The scene, or the folder of a cloud without pictures, which can only be shown to
            students.
        cloud: The points of the scene.
        out: The RUN folder to make; an earlier one of another scene is replaced.
        report: Shows progress.

    Raises:
        UsageError: If the run has nothing that could be applied to this scene.
    """
    known = checkpoints(home_of(trained).checkpoints)
    root = source if isinstance(source, Path) else source.root
    refuse_bound(spec, str(root))
    part = spec.of_scene(root.resolve())
    if isinstance(source, Scene):
        part = replace(part, graph=_moved_files(spec, source))
    liftable = isinstance(source, Scene) and not _foreign_files(part.graph, source)
    if not liftable and not known:
        raise UsageError(
            str(root),
            wanted="pictures that the run's teacher can look at, or a run with a trained student",
            got="neither",
            fix=f"train a student: xmodal train {trained.runfile} --out {trained.path}",
        )
    mark = sha256_file(known[-1] / "manifest.json") if known else ""
    if liftable:
        request = LiftRequest(source=root, out=out, overwrite=True)
        run = lift_spec(part, request, report).run
    else:
        run = _bare(trained, part, cloud, root, out)
    if known and run.manifest().get("checkpoint") != mark:
        of_training = scene_runs(trained)[0]
        infos = {name: of_training.info(name) for name in of_training.sources()}
        with report("student") as progress:
            write_answers(run, part, load_learners(trained, part), cloud, infos)
            progress(1, 1)
        run.finish(student_of=str(trained.path.resolve()), checkpoint=mark)
    return run


def _bare(trained: Run, part: RunFile, cloud: Points, root: Path, out: Path) -> Run:
    """A run of points alone; it gets the rows of students next."""
    fingerprint = fingerprint_of(
        run=trained.manifest().get("fingerprint"),
        points=hashlib.sha256(cloud.xyz.numpy().tobytes()).hexdigest(),
        source=str(root.resolve()),
    )
    run = create_run(out, fingerprint, overwrite=True)
    if not (out / "manifest.json").is_file():
        write_text(run.runfile, part.to_yaml())
        write_text(run.path / "graph.yaml", part.graph.to_yaml())
        write_points(run.points, cloud)
        run.finish(fingerprint=fingerprint, scene=str(root))
    return run


def _moved_files(spec: RunFile, scene: Scene) -> Graph:
    """The graph with teachers that read files inside of the run's scene reading this scene's.

    Frames of different scenes often have the same names; another scene's files would be wrong
    without a word.
    """
    graph = spec.graph
    encode = dict(graph.encode)
    for edge in graph.teachers().values():
        op: Any = edge.op
        folder = getattr(op, "folder", None)
        if folder is None:
            continue
        for own in spec.data.scenes:
            if Path(folder).resolve().is_relative_to(own.resolve()):
                there = scene.root / Path(folder).resolve().relative_to(own.resolve())
                if there.is_dir():
                    encode[edge.key] = replace(op, folder=str(there))
    return replace(graph, encode=encode)


def _foreign_files(graph: Graph, scene: Scene) -> bool:
    """Whether a teacher reads files that were made for the frames of another scene."""
    for edge in graph.teachers().values():
        op: Any = edge.op
        folder = getattr(op, "folder", None)
        if folder is None or not isinstance(op.teacher(), FrameFiles):
            continue
        if not Path(folder).resolve().is_relative_to(scene.root):
            return True
    return False
