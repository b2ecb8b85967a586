"""The ops of the verb `lift`: they unpack values and hand over to `lifting`."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lifting.cameras import Camera
from lifting.operator import LiftOperator
from xmodal.edges.lift.points import LiftPoints
from xmodal.edges.lift.superpoints import LiftSuperpoints
from xmodal.edges.lift.voxels import LiftVoxels
from xmodal.errors import DataError
from xmodal.values import Depth, FeatureMap, Masks, Points

HW = (24, 32)


def camera(x_m: float) -> Camera:
    pose = torch.eye(4)
    pose[0, 3] = x_m
    K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    return Camera(K=K, T_world_cam=pose, hw=HW)


def wall_points(num: int = 300) -> Points:
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1.4, 1.4, (num, 3))
    xyz[:, 2] = 2.0
    return Points(
        xyz=torch.from_numpy(xyz).float(),
        offsets=torch.tensor([0, num]),
        normals=torch.tensor([0.0, 0, -1]).repeat(num, 1),
        rgb=torch.full((num, 3), 0.5),
    )


def patch_maps(num: int = 3) -> list[FeatureMap]:
    return [
        FeatureMap(
            rows=torch.randn(12, 5, generator=torch.Generator().manual_seed(i)),
            valid=torch.ones(12, dtype=torch.bool),
            weight=torch.ones(12),
            grid_hw=(3, 4),
            camera=camera(0.2 * i),
            name=f"{i:03d}",
        )
        for i in range(num)
    ]


def mask_maps(num: int = 3) -> list[Masks]:
    maps = []
    for i in range(num):
        pixel = torch.arange(12)
        membership = LiftOperator.from_coo(
            torch.cat([pixel, pixel[:6]]),
            torch.cat([pixel // 6, torch.full((6,), 2)]),
            torch.ones(18),
            shape=(12, 3),
        )
        maps.append(
            Masks(
                rows=torch.rand(3, 5, generator=torch.Generator().manual_seed(i)),
                valid=torch.tensor([True, True, i > 0]),
                weight=torch.tensor([1.0, 2, 3]),
                membership=membership,
                grid_hw=(3, 4),
                camera=camera(0.2 * i),
                name=f"{i:03d}",
            )
        )
    return maps


def depths(num: int = 3) -> list[Depth]:
    return [
        Depth(depth_m=torch.full(HW, 2.0), camera=camera(0.2 * i), name=f"{i:03d}")
        for i in range(num)
    ]


# ---- points -------------------------------------------------------------------------------


@pytest.mark.parametrize("maps", [patch_maps, mask_maps])
def test_points_by_both_schedules(maps):
    by_block = LiftPoints()(maps(), depths(), wall_points())
    by_view = LiftPoints(schedule="by_view")(maps(), depths(), wall_points())
    assert by_block.rows is not None
    assert by_block.valid is not None
    assert 0 < int(by_block.valid.sum()) < 300
    assert int(by_block.num_views.max()) == 3
    for name in ("rows", "weight", "disagreement"):
        assert torch.allclose(getattr(by_block, name), getattr(by_view, name), atol=1e-6)


def test_points_keep_the_cloud():
    cloud = wall_points()
    lifted = LiftPoints()(patch_maps(), depths(), cloud)
    assert lifted.xyz is cloud.xyz
    assert lifted.rgb is cloud.rgb
    assert torch.equal(lifted.offsets, cloud.offsets)


def test_masks_lift_to_their_weighted_mean():
    masks = mask_maps(1)[0]
    cloud = dataclasses.replace(
        wall_points(1), xyz=torch.tensor([[0.0, -0.6, 2.0]]), normals=None, rgb=None
    )
    # That pixel lies in masks 0 and 2; the teacher calls mask 2 of the first frame invalid.
    lifted = LiftPoints()([masks], depths(1), cloud)
    assert torch.allclose(lifted.rows[0], masks.rows[0])
    trusted = dataclasses.replace(masks, valid=torch.ones(3, dtype=torch.bool))
    lifted = LiftPoints()([trusted], depths(1), cloud)
    assert torch.allclose(lifted.rows[0], (masks.rows[0] + 3 * masks.rows[2]) / 4)


@pytest.mark.parametrize("schedule", ["by_block", "by_view"])
def test_points_into_a_buffer_with_progress(schedule):
    out, seen = torch.full((300, 5), math.nan), []
    lifted = LiftPoints(schedule=schedule)(
        patch_maps(), depths(), wall_points(), out=out, progress=lambda *now: seen.append(now)
    )
    assert lifted.rows is out
    assert out.isfinite().all()
    assert seen[-1][0] == seen[-1][1]


def test_steps_follow_the_settings():
    plain = LiftPoints()(patch_maps(), depths(), wall_points())
    settings = {"shrink": 1.0, "smooth_m": 0.3, "complete_k": 2, "complete_m": 9.0}
    for name, value in settings.items():
        extra = {"complete_m": 9.0} if name == "complete_k" else {}
        if name == "complete_m":
            continue
        stepped = LiftPoints(**{name: value}, **extra)(patch_maps(), depths(), wall_points())
        assert not torch.equal(stepped.rows, plain.rows), name
    assert stepped.valid.all()
    assert torch.equal(stepped.weight, plain.weight)


def test_smoothing_and_shrinking_reach_the_buffer():
    out = torch.zeros(300, 5)
    op = LiftPoints(shrink=1.0, smooth_m=0.3, complete_k=2)
    lifted = op(patch_maps(), depths(), wall_points(), out=out)
    assert lifted.rows is out
    assert torch.equal(out, op(patch_maps(), depths(), wall_points()).rows)


def test_robust_changes_rows_only():
    plain = LiftPoints()(patch_maps(), depths(), wall_points())
    robust = LiftPoints(robust=True)(patch_maps(), depths(), wall_points())
    assert not torch.equal(plain.rows, robust.rows)
    assert torch.equal(plain.weight, robust.weight)


def test_without_depth_the_points_hide_each_other():
    lifted = LiftPoints()(patch_maps(), None, wall_points())
    assert lifted.valid.any()


def test_an_occluded_point_is_not_observed():
    cloud = wall_points()
    behind = dataclasses.replace(cloud, xyz=cloud.xyz * 1.5)
    assert not LiftPoints()(patch_maps(), depths(), behind).valid.any()


@pytest.mark.parametrize("schedule", ["by_block", "by_view"])
def test_points_refuse_features_that_are_not_finite(schedule):
    maps = patch_maps()
    maps[1].rows[:] = math.nan
    with pytest.raises(DataError, match="001: features to lift must be finite"):
        LiftPoints(schedule=schedule)(maps, depths(), wall_points())


def test_points_refuse_frames_in_another_order():
    with pytest.raises(DataError, match="depth of the same frame") as caught:
        LiftPoints()(patch_maps(), depths()[::-1], wall_points())
    assert "depth of frame 002" in str(caught.value)


def test_points_refuse_another_number_of_depth_maps():
    with pytest.raises(DataError, match="one depth map for each of 3 frames"):
        LiftPoints()(patch_maps(), depths(2), wall_points())


def test_points_refuse_no_frames():
    with pytest.raises(DataError, match="at least one frame"):
        LiftPoints()([], None, wall_points())


def test_points_refuse_features_that_do_not_fit_their_grid():
    maps = [dataclasses.replace(m, grid_hw=(4, 4)) for m in patch_maps()]
    with pytest.raises(DataError, match="needs 16 rows, got 12"):
        LiftPoints()(maps, depths(), wall_points())


def test_points_refuse_several_scenes_at_once():
    cloud = dataclasses.replace(wall_points(), offsets=torch.tensor([0, 100, 300]))
    with pytest.raises(DataError, match="2 clouds"):
        LiftPoints()(patch_maps(), depths(), cloud)


def test_grazing_needs_normals():
    cloud = dataclasses.replace(wall_points(), normals=None)
    with pytest.raises(DataError, match="points with normals"):
        LiftPoints(grazing_power=1.0)(patch_maps(), depths(), cloud)
    LiftPoints(grazing_power=1.0)(patch_maps(), depths(), wall_points())


@pytest.mark.parametrize(
    "settings",
    [
        {"distance_m": 0.0},
        {"grazing_power": -1.0},
        {"border": 0.6},
        {"margin_m": -0.1},
        {"margin_m": 0.0, "noise_sigmas": 0.0},
        {"shrink": math.nan},
        {"smooth_m": -1.0},
        {"complete_k": -1},
        {"complete_m": 0.0},
        {"robust": True, "schedule": "by_view"},
    ],
    ids=str,
)
def test_points_refuse_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LiftPoints(**settings)


# ---- voxels and super-points --------------------------------------------------------------


def featured(num: int = 300) -> Points:
    cloud = wall_points(num)
    return dataclasses.replace(
        cloud,
        rows=torch.rand(num, 4, generator=torch.Generator().manual_seed(1)),
        valid=torch.arange(num) % 3 > 0,
        weight=torch.arange(num).float() % 3,
    )


def test_voxels_average_by_coverage():
    cloud = Points(
        xyz=torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [1.5, 0, 0]]),
        offsets=torch.tensor([0, 4]),
        rows=torch.tensor([[0.0], [4], [math.nan], [math.nan]]),
        valid=torch.tensor([True, True, False, False]),
        weight=torch.tensor([1.0, 3, 5, 0]),
    )
    voxels = LiftVoxels(voxel_m=1.0)(cloud)
    assert voxels.coords.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert voxels.rows.tolist() == [[3], [0]]
    assert voxels.valid.tolist() == [True, False]
    assert voxels.weight.tolist() == [4, 0]
    assert voxels.offsets.tolist() == [0, 2]


def test_voxels_of_bare_points_have_no_features():
    voxels = LiftVoxels(voxel_m=0.5)(wall_points())
    assert voxels.rows is None
    assert len(voxels.coords) > 1


def test_superpoints_give_each_point_its_segments_average():
    cloud = featured()
    pooled = LiftSuperpoints(min_size=1)(cloud)
    # A flat wall of one colour is one segment.
    share = cloud.weight * cloud.valid
    wanted = (cloud.rows * share[:, None]).sum(0) / share.sum()
    assert torch.allclose(pooled.rows, wanted.expand(300, -1), atol=1e-5)
    assert pooled.valid.all()


def test_superpoints_stay_within_a_sample():
    one = featured(100)
    twice = dataclasses.replace(
        one,
        xyz=one.xyz.repeat(2, 1),
        rgb=one.rgb.repeat(2, 1),
        normals=one.normals.repeat(2, 1),
        rows=torch.cat([torch.zeros(100, 1), torch.ones(100, 1)]),
        valid=torch.ones(200, dtype=torch.bool),
        weight=None,
        offsets=torch.tensor([0, 100, 200]),
    )
    assert torch.equal(LiftSuperpoints()(twice).rows, twice.rows)


def test_superpoints_of_bare_points_are_numbers_alone():
    found = LiftSuperpoints()(wall_points())
    assert found.rows is None
    assert found.segments.tolist() == [0] * 300


@pytest.mark.parametrize("op", [LiftVoxels(), LiftSuperpoints()])
def test_pooling_refuses_points_without_a_place(op):
    cloud = featured()
    cloud.xyz[3, 1] = math.nan
    with pytest.raises(DataError, match="finite"):
        op(cloud)


@pytest.mark.parametrize("op", [LiftVoxels(), LiftSuperpoints()])
def test_pooling_refuses_observed_features_that_are_not_finite(op):
    cloud = featured()
    cloud.rows[1, 1] = math.inf
    with pytest.raises(DataError, match="must be finite"):
        op(cloud)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LiftVoxels(voxel_m=0.0),
        lambda: LiftVoxels(voxel_m=math.inf),
        lambda: LiftSuperpoints(scale=0.0),
        lambda: LiftSuperpoints(colour_weight=-1.0),
        lambda: LiftSuperpoints(min_size=0),
        lambda: LiftSuperpoints(num_neighbours=1),
    ],
)
def test_pooling_refuses_settings_out_of_range(make):
    with pytest.raises(ValueError, match=r"must be|below"):
        make()
