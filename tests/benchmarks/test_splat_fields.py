"""The table of lifted and learnt fields: its run files, its baselines, and one tiny room."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tables import splat_fields
from benchmarks.tables.held_views import (
    BASELINES,
    NEAREST,
    WARPED,
    judge,
    nearest,
    warped,
)
from benchmarks.tables.splat_fields import TEACHERS, Arm, against, arm_spec
from lifting.cameras import Camera
from xmodal.errors import DataError
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import open_run
from xmodal.values import Depth, FeatureMap
from xmodal.world import WorldOptions, make_world

START = "feature_3dgs: start alone"
K = torch.tensor([[8.0, 0, 8], [0, 8.0, 8], [0, 0, 1]])


def camera(x_m: float = 0.0, turn_rad: float = 0.0) -> Camera:
    T = torch.eye(4)
    T[0, 3] = x_m
    T[0, 0] = T[2, 2] = math.cos(turn_rad)
    T[0, 2], T[2, 0] = math.sin(turn_rad), -math.sin(turn_rad)
    return Camera(K=K, T_world_cam=T, hw=(16, 16))


def patches(of: Camera, rows: torch.Tensor) -> FeatureMap:
    return FeatureMap(
        rows=rows,
        valid=torch.ones(len(rows), dtype=torch.bool),
        weight=torch.ones(len(rows)),
        grid_hw=(2, 2),
        camera=of,
        name="view",
    )


# ---- arms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", list(TEACHERS))
def test_every_arm_leaves_the_same_views_out(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7scenes_redkitchen").mkdir()
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    for arm in TEACHERS[teacher].values():
        spec = arm_spec(arm, teacher, 8)
        lifts: list[Any] = [op for op in spec.graph.lift.values() if op.op != "fit_splats"]
        assert [op.hold_out for op in lifts] == [8] * len(lifts)
        assert spec.graph.teachers()["maps"].op.op == teacher
        assert spec.graph.nodes["lifted"].channels == 384
        fields: list[Any] = [op for op in spec.graph.encode.values() if op.op == "splat_field"]
        assert [op.start for op in fields] == ([arm.start] if arm.steps else [])
        widths = [spec.graph.nodes["field"].channels] if arm.steps else []
        assert widths == ([arm.width] if arm.steps else [])


def test_what_a_field_starts_from_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7scenes_redkitchen").mkdir()
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    spec = arm_spec(Arm(system="feature_3dgs", width=32, steps=1), "imagenet_dense", 8)
    assert spec.steps == 1
    assert spec.optimiser.lr < 1e-6


def test_differences_are_of_the_same_views() -> None:
    cells = against([0.5, 0.7, 0.9], [0.4, 0.6, 0.8], same=False)
    assert cells[0].startswith("0.700 (")
    assert cells[1] == "+0.100 (+0.100..+0.100)"
    assert against([0.5], [0.5], same=True)[1] == "-"


# ---- views ---------------------------------------------------------------------------------------


def test_the_nearest_view_is_near_and_looks_alike() -> None:
    others = [camera(x_m=0.3), camera(x_m=0.1, turn_rad=1.0), camera(x_m=-0.2)]
    assert nearest(camera(), others) == 2


def test_a_map_is_moved_by_depth() -> None:
    # A wall 1 m ahead; the other camera stands half a picture (1 m at 8 px focal) to the right.
    rows = torch.eye(4)
    wall = Depth(depth_m=torch.ones(16, 16), camera=camera(), name="view")
    other = camera(x_m=1.0)
    hidden = Depth(depth_m=torch.ones(16, 16), camera=other, name="view")
    here, near = patches(camera(), torch.zeros(4, 4)), patches(other, rows)
    found = warped(here, near, (wall, hidden), torch.full((4,), 0.5))
    # What is in the right half here is in the left half there; the left half is not seen.
    assert torch.equal(found[[1, 3]], rows[[0, 2]])
    assert torch.equal(found[[0, 2]], torch.full((2, 4), 0.5))


@pytest.mark.parametrize("which", [0, 1])
def test_without_depth_nothing_is_moved(which: int) -> None:
    wall = Depth(depth_m=torch.ones(16, 16), camera=camera(), name="view")
    depths = (None, wall) if which else (wall, None)
    view = patches(camera(), torch.eye(4))
    assert torch.equal(warped(view, view, depths, torch.ones(4)), torch.ones(4, 4))


# ---- one tiny room -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights")
def test_arms_of_a_tiny_room_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ("soccer ball", "coffee mug", "banana")
    options = WorldOptions(seed=3, objects=objects, num_views=4, hw=(96, 128), spacing_m=0.02)
    make_world(tmp_path / "7scenes_redkitchen", options)
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    arms = {
        "closed form: mean": Arm(),
        START: Arm(system="feature_3dgs", width=32, steps=1),
        "random": Arm(system="feature_3dgs", width=32, steps=1, start="random"),
    }
    monkeypatch.setattr(splat_fields, "TEACHERS", {"imagenet_dense": arms})
    work = tmp_path / "work"
    for name, arm in arms.items():
        settings = {"teacher": "imagenet_dense", "name": name, **asdict(arm)}
        made = splat_fields.make_arm(work, settings)
        assert (made["lift_seconds"] is None) == (name == "random")
        assert made["learn_seconds"] is None
    splat_fields.lift_to_points(work, {"teacher": "imagenet_dense"})
    found = splat_fields.judge_teacher(work, {"teacher": "imagenet_dense", "every": 8})
    assert (found["lifted"], found["held_out"]) == (3, 1)
    cosines = {name: values[0] for name, values in found["cosines"].items()}
    assert set(BASELINES) <= cosines.keys()
    assert all(0 < value <= 1 for name, value in cosines.items() if name != "random")
    # The start is the closed form at 32 directions; a random field says nothing yet.
    assert cosines[START] == pytest.approx(cosines["closed form: mean"], abs=0.03)
    assert cosines["random"] < cosines[START] - 0.2
    assert cosines[WARPED] > cosines[NEAREST]


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights")
def test_rows_of_other_splats_are_not_judged(tmp_path: Path) -> None:
    options = WorldOptions(seed=3, objects=("banana",), num_views=2, hw=(48, 64), spacing_m=0.05)
    room = make_world(tmp_path / "room", options)
    request = LiftRequest(source=room, out=tmp_path / "run", teacher="imagenet_dense",
                          to="gaussians")  # fmt: skip
    opened = open_run(lift_run(request, silent).run.path)
    store = opened.features("lifted")
    other = replace(store, info=replace(store.info, num_points=3))
    with pytest.raises(DataError, match="rows of"):
        judge(opened, {"lifted": other}, 2)
