"""The generated scenes, lifted once, and what is known about their points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from xmodal.atomic import write_text
from xmodal.evaluate import OTHER
from xmodal.ply import read_points
from xmodal.runs.frozen import LIFTED, silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.store import Run
from xmodal.values import Points
from xmodal.world import SEEN_OBJECTS, UNSEEN_OBJECTS, WorldSet, make_worlds

Ids = NDArray[np.int64]

WORLDS = WorldSet(train=40, test=10, novel=10, dev=5)
# The masks of `embedded` cost seconds a view, so it lifts the scenes that are judged and no others.
JUDGED = ("dev", "test", "novel")
# What "other" means: surfaces in plain words and in those of ImageNet, as in a default run file.
OTHERS = (
    "table", "floor", "wall", "ceiling", "dining table", "desk", "window shade",
    "shower curtain", "doormat", "wardrobe", "sliding door",
)  # fmt: skip
# Chosen on the dev scenes (`python -m benchmarks.tables teacher`): 0.23 s a view on one core.
DENSE: Mapping[str, Any] = {"op": "imagenet_dense", "space": "unit", "image_size": 1280}
MASKS: Mapping[str, Any] = {"op": "embedded", "grid": 12}
PLAIN: Mapping[str, Any] = {"op": "points"}
SHARED: Mapping[str, Any] = {"op": "points", "smooth_m": 0.02, "segment_share": 0.9}


def split_of(scene: str) -> str:
    """The split that a scene's name begins with."""
    return scene.split("-", maxsplit=1)[0]


def names_of(split: str) -> tuple[str, ...]:
    """The objects that are told apart in a split."""
    return UNSEEN_OBJECTS if split == "novel" else SEEN_OBJECTS


def scene_names(*splits: str, worlds: WorldSet = WORLDS) -> list[str]:
    """Names of the scenes of some splits."""
    return [name for name in worlds.scenes() if split_of(name) in splits]


def ensure_worlds(work: Path, worlds: WorldSet = WORLDS) -> Path:
    """The folder of the scenes, made if it is not there."""
    folder = work / "worlds"
    make_worlds(folder, worlds)
    return folder


@dataclass(frozen=True)
class LiftSettings:
    """A frozen teacher and a lift to points; decides where the lifted scenes lie."""

    name: str
    teacher: Mapping[str, Any]
    lift: Mapping[str, Any]

    @property
    def space(self) -> str:
        """Space of the rows."""
        return self.teacher.get("space", "simplex")

    @property
    def channels(self) -> int:
        """Width of a row."""
        return 384 if self.space == "unit" else 1000

    def runfile(self, scene: Path) -> str:
        """A run file for one scene, with the student that `xmodal lift` would write."""
        kind = "masks" if self.teacher["op"] == "embedded" else "feature_map"
        rows = {"kind": "points", "channels": self.channels, "on": "cloud"}
        loss = "cosine" if self.space == "unit" else "kl"
        graph = {
            "name": f"{self.name}-{scene.name}",
            "nodes": {
                "cameras": {"kind": "image"},
                "depth": {"kind": "depth"},
                "cloud": {"kind": "points"},
                "maps": {"kind": kind, "channels": self.channels},
                "lifted": rows,
                "student": dict(rows),
            },
            "encode": {
                "cameras -> maps": {**self.teacher, "frozen": True},
                "cloud -> student": {"op": "sparse_unet", "voxel_m": 0.02},
            },
            "lift": {"maps, depth, cloud -> lifted": dict(self.lift)},
            "distill": {"lifted -> student": {"op": loss}},
        }
        run = {"name": graph["name"], "graph": graph, "data": {"scene": str(scene.resolve())}}
        run["evaluation"] = {"other": list(OTHERS)}
        return yaml.safe_dump(run, sort_keys=False)


DENSE_PLAIN = LiftSettings("dense_plain", DENSE, PLAIN)
DENSE_SHARED = LiftSettings("dense_shared", DENSE, SHARED)
CLASSES_PLAIN = LiftSettings("classes_plain", {**DENSE, "space": "simplex"}, PLAIN)
CLASSES_SHARED = LiftSettings("classes_shared", {**DENSE, "space": "simplex"}, SHARED)
MASKS_SHARED = LiftSettings("masks_shared", MASKS, SHARED)
LIFTS = {
    s.name: s for s in (DENSE_PLAIN, DENSE_SHARED, CLASSES_PLAIN, CLASSES_SHARED, MASKS_SHARED)
}


def lift_scenes(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: lift scenes; settings `lift`, one of `LIFTS`, and `scenes`. What is there is kept."""
    lift = LIFTS[settings["lift"]]
    cost: dict[str, Any] = {}
    for name in settings["scenes"]:
        out = run_folder(work, lift, name)
        runfile = out.with_name(f"{name}.yaml")
        runfile.parent.mkdir(parents=True, exist_ok=True)
        write_text(runfile, lift.runfile(work / "worlds" / name))
        lift_run(LiftRequest(source=runfile, out=out, overwrite=True), silent)
        manifest = Run(out).manifest()
        cost[name] = {"frames": manifest["frames"], "lift_seconds": manifest["lift_seconds"]}
    return {"lifted": cost}


def run_folder(work: Path, lift: LiftSettings, name: str) -> Path:
    """The RUN folder of a lifted scene."""
    return work / "lifted" / lift.name / name


@dataclass(frozen=True)
class LabelledScene:
    """One scene of the worlds; parts are read when they are asked for."""

    work: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where the posed RGB-D folder lies."""
        return self.work / "worlds" / self.name

    @cached_property
    def cloud(self) -> Points:
        """The points, with colours and normals."""
        return read_points(self.folder / "points.ply").points

    def ids(self, names: Sequence[str]) -> Ids:
        """True class of every point as an index into `names`, OTHER for everything else."""
        classes = json.loads((self.folder / "classes.json").read_text())
        position = {name: index for index, name in enumerate(names)}
        table = np.array([position.get(name, OTHER) for name in classes], dtype=np.int64)
        return table[np.load(self.folder / "labels.npy")]

    def lifted(self, lift: LiftSettings) -> Points:
        """The cloud with lifted rows; they stay in their file until they are read."""
        features = Run(run_folder(self.work, lift, self.name)).features(LIFTED)
        return replace(
            self.cloud,
            rows=features.tensor(),
            valid=torch.from_numpy(np.array(features.valid)),
            weight=torch.from_numpy(np.array(features.weight)),
        )

    def truth(self, names: Sequence[str], share: float = 1.0, seed: int = 0) -> Points:
        """The cloud with one-hot rows over the names and "other", for a random share of points."""
        ids = self.ids(names)
        ids = np.where(ids == OTHER, len(names), ids)
        rows = torch.nn.functional.one_hot(torch.from_numpy(ids), len(names) + 1).half()
        random = np.random.default_rng((seed, int(self.name.split("-")[1]), 7))
        known = np.zeros(len(ids), dtype=bool)
        known[random.permutation(len(ids))[: max(1, round(share * len(ids)))]] = True
        return replace(self.cloud, rows=rows, valid=torch.from_numpy(known))
