"""What is judged: scenes with truth, each with a run that answers or another system's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from xmodal.datasets import Labels, Scene, open_scene
from xmodal.datasets.settings import LabelSet
from xmodal.errors import DataError, UsageError
from xmodal.evaluate.segmentation import Ids
from xmodal.runs.evaluate.request import Chosen, EvalRequest
from xmodal.runs.evaluate.truth import checked, object_names, transfer, unlabelled
from xmodal.runs.evaluate.unseen import run_on
from xmodal.runs.frozen import Reporter
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.scenes import scene_runs
from xmodal.store import Run
from xmodal.values import Points


@dataclass(frozen=True, eq=False)
class Subject:
    """One scene that is judged.

    Attributes:
        name: Name of the scene's folder.
        opened: The run that answers; None when only another system's arrays are scored.
        scene: Its pictures, boxes and label maps; None for a cloud without pictures.
        cloud: The points that answers are given for.
        labels: Labels of `labelled`; None when the scene has none.
        labelled: The points that the labels belong to.
    """

    name: str
    opened: OpenedRun | None
    scene: Scene | None
    cloud: Points
    labels: Labels | None
    labelled: Points

    @cached_property
    def truth(self) -> Ids:
        """Class of every point of `cloud`, an index into `classes`; negative where unknown.

        Raises:
            DataError: If the scene has no labels.
        """
        if self.labels is None:
            raise unlabelled(self.name)
        labels = checked(self.labels, self.name)
        return transfer(self.cloud.xyz.numpy(), self.labelled.xyz.numpy(), labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the label ids."""
        return () if self.labels is None else self.labels.classes

    @property
    def objects(self) -> tuple[str, ...]:
        """Classes that occur, without the surfaces that carry the objects."""
        return () if self.labels is None else object_names(self.labels)


def collect(request: EvalRequest, report: Reporter) -> list[Subject]:
    """The scenes to judge.

    Raises:
        DataError: If the run or a scene is missing or damaged.
        UsageError: If the options name scenes that are not there.
    """
    if request.given and not (request.run / "manifest.json").is_file() and request.run.is_dir():
        if request.data is not None:
            raise UsageError(
                f"--data {request.data}",
                wanted=f"a RUN to apply to it, or no --data beside the scene {request.run}",
                got="two scenes",
                fix=f"xmodal eval {request.data} --scores F.npy",
            )
        return [_alone(folder) for folder in scene_folders(request.run)]
    if request.data is not None:
        return _on_data(request, report)
    opened = [open_run(run.path) for run in _of_split(Run(request.run), request)]
    return [_own(part) for part in _sharing_teacher(opened)]


def scene_folders(folder: Path) -> list[Path]:
    """A folder's scenes: itself, or its sub-folders when it is only a list of scenes.

    Raises:
        DataError: If it is no folder.
    """
    if not folder.is_dir():
        raise DataError(
            str(folder),
            wanted="a scene folder, or a folder of scene folders",
            got="a file" if folder.exists() else "no such folder",
            fix="check the path",
        )
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    own = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    is_scene = any(_marks_scene(path.name) for path in [*own, *inside])
    return inside if inside and not is_scene else [folder]


def _marks_scene(name: str) -> bool:
    """Whether a file or folder of this name stands at the top of a scene of some layout."""
    whole = {
        "color", "rgb", "pose", "depth", "results", "traj.txt", "groundtruth.txt", "labels.npy",
        "transforms.json", "intrinsic.txt", "scene.json",
    }  # fmt: skip
    return name in whole or name.endswith((".ply", ".sens")) or name.startswith("frame-")


def _of_split(run: Run, request: EvalRequest) -> list[Run]:
    run.manifest()
    runs = scene_runs(run)
    if not run.runfile.is_file():
        return runs
    spec = open_run(run.path).spec
    split_of = {part.path.name: spec.splits.of(part.path.name) for part in runs}
    if len(runs) == 1 and runs[0].path == run.path:  # a run of one scene, named after its folder
        split_of = {run.path.name: spec.splits.of(spec.data.scenes[0].name)}
    wanted: Chosen | None = request.split
    if wanted is None:
        present = set(split_of.values()) if len(runs) > 1 else set[str]()
        wanted = "test" if "test" in present else "val" if "val" in present else "all"
    chosen = [part for part in runs if wanted in ("all", split_of[part.path.name])]
    if not chosen:
        raise UsageError(
            f"--split {wanted}",
            wanted="a split with scenes of the run",
            got=", ".join(f"{name}: {split}" for name, split in list(split_of.items())[:8]),
            fix="--split all",
        )
    return chosen


def _sharing_teacher(opened: list[OpenedRun]) -> list[OpenedRun]:
    """The same runs with one teacher object, so that its text encoder is loaded once."""
    first = opened[0]
    asked = vars(first).setdefault("_asked", {})
    for part in opened[1:]:
        if part.spec.graph == first.spec.graph and part.spec.graph.teachers():
            # A cached property takes what is put in its place.
            vars(part)["_asked"] = asked
            with suppress(UsageError):  # several teachers: there is none to share
                vars(part)["teacher"] = first.teacher
    return opened


def _own(opened: OpenedRun) -> Subject:
    """A run on the scene that it was made from."""
    scene = opened.scene
    labels = scene.labels()
    labelled = opened.cloud if labels is None else scene.cloud()
    return Subject(scene.name, opened, scene, opened.cloud, labels, labelled)


def _alone(folder: Path) -> Subject:
    scene, cloud, labels = open_labelled(folder)
    if labels is None:
        raise unlabelled(str(folder))
    return Subject(folder.resolve().name, None, scene, cloud, labels, cloud)


def _on_data(request: EvalRequest, report: Reporter) -> list[Subject]:
    """A run on labelled scenes that it may never have seen."""
    assert request.data is not None
    run = Run(request.run)
    run.manifest()
    spec = open_run(run.path).spec
    runs = scene_runs(run)
    subjects: list[Subject] = []
    for folder in scene_folders(request.data):
        scene, cloud, labels = open_labelled(
            folder,
            voxel_m=spec.data.voxel_m,
            max_frames=spec.data.max_frames,
            label_set=spec.data.label_set,
            max_side_px=spec.data.max_side_px,
        )
        name = folder.resolve().name
        known = _run_of(runs, scene, folder, cloud)
        if request.given and known is None:
            subjects.append(Subject(name, None, scene, cloud, labels, cloud))
            continue
        if known is None:
            source = folder if scene is None else scene
            made = run_on(run, spec, source, cloud, request.out / "eval" / name, report)
            known = open_run(made.path)
        subjects.append(Subject(name, known, scene, known.cloud, labels, cloud))
    _sharing_teacher([s.opened for s in subjects if s.opened] or [open_run(runs[0].path)])
    return subjects


def _run_of(
    runs: Sequence[Run], scene: Scene | None, folder: Path, cloud: Points
) -> OpenedRun | None:
    """The run that was made from this very capture, if there is one: its features are right."""
    for run in runs:
        opened = open_run(run.path)
        if scene is None:
            points = opened.cloud.xyz
            if points.shape == cloud.xyz.shape and torch.allclose(points, cloud.xyz, atol=1e-5):
                return opened
            continue
        if run.manifest().get("scene_fingerprint") == scene.fingerprint:
            return opened
        try:
            own = opened.scene
        except DataError:  # the run's own scene was moved away; then this cannot be seen
            continue
        if own.root == folder.resolve() or same_capture(own, scene):
            return opened
    return None


def same_capture(first: Scene, second: Scene) -> bool:
    """Whether two folders hold the same pictures from the same places, for instance relabelled."""
    shared = [name for name in first.images.names if name in second.images.names]
    if not shared:
        return False
    for name in (shared[0], shared[-1]):
        a, b = (s.images[s.images.names.index(name)] for s in (first, second))
        same_place = torch.allclose(a.camera.T_world_cam, b.camera.T_world_cam, atol=1e-4)
        if a.rgb.shape != b.rgb.shape or not same_place or not torch.equal(a.rgb, b.rgb):
            return False
    return True


def open_labelled(
    folder: Path,
    *,
    voxel_m: float = 0.02,
    max_frames: int | None = None,
    label_set: LabelSet | None = None,
    max_side_px: int | None = None,
) -> tuple[Scene | None, Points, Labels | None]:
    """A scene with its points and labels; a cloud without pictures will do, and is no scene.

    Raises:
        DataError: If anything in it is damaged.
    """
    scene = open_scene(
        folder,
        voxel_m=voxel_m,
        max_frames=max_frames,
        label_set=label_set,
        need=["points"],
        max_side_px=max_side_px,
    )
    labels = scene.labels()
    return (scene if len(scene.images) else None), scene.cloud(), labels
