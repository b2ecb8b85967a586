import dataclasses
import math

import numpy as np
import pytest
import torch

from lifting.cameras import Camera
from lifting.operator import LiftOperator
from lifting.quality import QualityWeights
from lifting.robust import RobustLift
from lifting.schedules import add_view, lift_by_block, lift_by_view
from lifting.views import LiftView, LruViews, PointLift, ViewList, view_operator
from lifting.visibility import visible_points

NO_QUALITY = QualityWeights(distance_m=None, grazing_power=None, border=None)
PLAIN = PointLift(quality=NO_QUALITY, sampling="nearest")


def camera(x_m: float = 0.0, hw: tuple[int, int] = (4, 4)) -> Camera:
    """Looks along +z; at 2 m a pixel of a 4 x 4 image is 1 m wide."""
    pose = torch.eye(4)
    pose[0, 3] = x_m
    K = torch.tensor([[2.0, 0, 2], [0, 2, 2], [0, 0, 1]])
    return Camera(K=K, T_world_cam=pose, hw=hw)


def wall(depth_m: float = 2.0) -> torch.Tensor:
    return torch.full((4, 4), depth_m)


def patches(seed: int = 0, channels: int = 3, x_m: float = 0.0, **kwargs) -> LiftView:
    rows = torch.randn(16, channels, generator=torch.Generator().manual_seed(seed))
    made = {
        "camera": camera(x_m),
        "rows": rows,
        "grid_hw": (4, 4),
        "depth_m": wall(),
        "name": f"view {seed}",
    }
    return LiftView(**(made | kwargs))


def masked(seed: int = 0, x_m: float = 0.0, **kwargs) -> LiftView:
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(16, 5, generator=generator) < 0.3
    row, col = torch.nonzero(members, as_tuple=True)
    membership = LiftOperator.from_coo(row, col, torch.ones(len(row)), shape=(16, 5))
    return patches(
        seed,
        x_m=x_m,
        rows=torch.randn(5, 3, generator=generator),
        membership=membership,
        row_weight=torch.rand(5, generator=generator) + 0.1,
        **kwargs,
    )


def cloud(num: int = 60, seed: int = 0) -> torch.Tensor:
    """Points on the wall and hidden ones behind it."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-3, 3, (num, 3))
    xyz[:, 2] = np.where(rng.random(num) < 0.8, 2.0, 3.0)
    return torch.from_numpy(xyz.astype(np.float32))


def assert_same(a, b, tolerance: float = 2e-6) -> None:
    for name in ("rows", "weight", "disagreement"):
        x, y = getattr(a, name).double(), getattr(b, name).double()
        assert torch.allclose(x, y, atol=tolerance), name
    assert torch.equal(a.valid, b.valid)
    assert torch.equal(a.num_views, b.num_views)


SETS = {
    "patches": lambda: [patches(i, x_m=0.4 * i) for i in range(4)],
    "masks": lambda: [masked(i, x_m=0.4 * i) for i in range(4)],
    "weighted patches": lambda: [patches(i, row_weight=torch.linspace(0, 1, 16)) for i in range(3)],
}


# ---- by hand ------------------------------------------------------------------------------


def test_two_views_by_hand():
    # Both cameras see the point in pixel (2, 2); the second patch weighs 3.
    xyz = torch.tensor([[0.5, 0.5, 2.0], [0.5, 0.5, 3.0], [9.0, 0, 2.0]])
    rows = torch.zeros(16, 2)
    rows[10] = torch.tensor([4.0, 0])
    other = torch.zeros(16, 2)
    other[10] = torch.tensor([0.0, 8])
    weight = torch.full((16,), 3.0)
    views = [patches(rows=rows), patches(rows=other, row_weight=weight)]
    lifted = lift_by_block(views, xyz, options=PLAIN)
    assert torch.allclose(lifted.rows, torch.tensor([[1.0, 6], [0, 0], [0, 0]]))
    assert lifted.valid.tolist() == [True, False, False]
    assert lifted.weight.tolist() == [4, 0, 0]
    assert lifted.num_views.tolist() == [2, 0, 0]
    # |1 (1, 0) + 3 (0, 1)| = sqrt(10) of 4.
    assert lifted.disagreement[0].item() == pytest.approx(1 - math.sqrt(10) / 4, abs=1e-6)


def test_overlapping_masks_give_their_weighted_mean_and_count_once():
    membership = LiftOperator.from_coo(
        torch.tensor([10, 10, 11]), torch.tensor([0, 1, 1]), torch.ones(3), shape=(16, 2)
    )
    view = patches(
        rows=torch.tensor([[4.0], [8]]),
        membership=membership,
        row_weight=torch.tensor([3.0, 1]),
    )
    xyz = torch.tensor([[0.5, 0.5, 2.0], [1.5, 0.5, 2], [-0.5, 0.5, 2]])
    lifted = lift_by_block([view], xyz, options=PLAIN)
    assert lifted.rows.squeeze(1).tolist() == [5, 8, 0]
    assert lifted.weight.tolist() == [1, 1, 0]  # one view each, however many masks
    assert lifted.valid.tolist() == [True, True, False]  # no mask, nothing contributed


def test_quality_scales_what_a_view_contributes():
    xyz = torch.tensor([[0.5, 0.5, 2.0]])
    distance_m = math.sqrt(0.5 + 4)
    options = PointLift(
        quality=QualityWeights(distance_m=distance_m, grazing_power=None, border=None)
    )
    assert lift_by_block([masked(1)], xyz, options=options).weight.item() in (0, 0.5)
    assert lift_by_block([patches()], xyz, options=options).weight.item() == pytest.approx(0.5)


def test_normals_reach_the_quality():
    xyz = torch.tensor([[0.0, 0, 2], [0.1, 0, 2]])
    normals = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    options = PointLift(quality=QualityWeights(distance_m=None, grazing_power=1.0, border=None))
    for weight in (
        lift_by_block([patches()], xyz, normals=normals, options=options).weight,
        lift_by_view([patches()], xyz, normals=normals, options=options).weight,
    ):
        assert weight[0].item() == pytest.approx(1)
        assert weight[1].item() == pytest.approx(0.1 / math.sqrt(4.01), abs=1e-5)


def test_rows_of_weight_zero_are_never_read():
    rows = torch.full((16, 2), math.nan)
    rows[10] = 1
    weight = torch.zeros(16)
    weight[10] = 1
    xyz = torch.tensor([[0.5, 0.5, 2.0], [-0.5, 0.5, 2]])
    view = patches(rows=rows, row_weight=weight)
    for lifted in (lift_by_block([view], xyz), lift_by_view([view], xyz).finish()):
        assert lifted.rows.isfinite().all()
        assert lifted.valid[0]


# ---- one operator, two schedules ----------------------------------------------------------


@pytest.mark.parametrize("views", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_both_schedules_agree(views, backend, block_rows):
    xyz, options = cloud(), PointLift(backend=backend)
    by_view = lift_by_view(views(), xyz, options=options).finish()
    by_block = lift_by_block(views(), xyz, options=options, block_rows=block_rows)
    assert 0 < int(by_view.valid.sum()) < len(xyz)
    assert int(by_view.num_views.max()) > 1
    assert_same(by_block, by_view)


@pytest.mark.parametrize("views", SETS.values(), ids=SETS.keys())
def test_schedules_sum_the_view_operators(views):
    xyz, options = cloud(), PointLift()
    total = torch.zeros(len(xyz), 3)
    weight = torch.zeros(len(xyz))
    for view in views():
        operator = view_operator(view, xyz, options=options)
        assert operator.shape == (len(xyz), len(view.rows))
        total += operator.apply(view.rows)
        weight += operator.row_sum()
    lifted = lift_by_block(views(), xyz, options=options)
    assert torch.allclose(lifted.weight, weight, atol=1e-6)
    assert torch.allclose(lifted.rows * weight[:, None], total, atol=1e-5)


@pytest.mark.parametrize("robust", [None, RobustLift(), RobustLift(tuning=0.3)])
@pytest.mark.parametrize("views", SETS.values(), ids=SETS.keys())
def test_order_of_views_does_not_matter(views, robust):
    xyz = cloud()
    forward = lift_by_block(views(), xyz, robust=robust)
    backward = lift_by_block(views()[::-1], xyz, robust=robust)
    assert_same(forward, backward)


@pytest.mark.parametrize("views", SETS.values(), ids=SETS.keys())
def test_order_of_points_does_not_matter(views):
    xyz = cloud()
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(1))
    straight = lift_by_block(views(), xyz, block_rows=8)
    shuffled = lift_by_block(views(), xyz[order], block_rows=8)
    assert torch.equal(shuffled.rows, straight.rows[order])


@pytest.mark.parametrize("views", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("robust", [None, RobustLift()])
def test_compiled_and_reference_agree(views, robust):
    xyz = cloud(200)
    numba, reference = (
        lift_by_block(views(), xyz, options=PointLift(backend=backend), robust=robust)
        for backend in ("numba", "torch")
    )
    assert_same(numba, reference, 1e-5)


def test_float64_is_kept():
    views = [dataclasses.replace(v, rows=v.rows.double()) for v in SETS["patches"]()]
    lifted = lift_by_block(views, cloud())
    assert lifted.rows.dtype == torch.float64
    assert_same(lifted, lift_by_view(views, cloud()).finish())


def test_half_precision_maps_are_summed_in_float32():
    views = [dataclasses.replace(v, rows=v.rows.half()) for v in SETS["patches"]()]
    lifted = lift_by_block(views, cloud())
    assert lifted.rows.dtype == torch.float32
    assert_same(lifted, lift_by_view(views, cloud()).finish())


def test_without_depth_points_hide_each_other():
    spots = torch.linspace(-1.5, 1.5, 61)
    grid = torch.cartesian_prod(spots, spots)
    front = torch.cat([grid, torch.full((len(grid), 1), 2.0)], 1)
    xyz = torch.cat([front, front * 1.5])
    view = patches(depth_m=None)
    options = PointLift(quality=NO_QUALITY)
    for lifted in (
        lift_by_block([view], xyz, options=options, block_rows=100),
        lift_by_view([view], xyz, options=options).finish(),
    ):
        assert lifted.valid[: len(front)].float().mean() > 0.95
        assert lifted.valid[len(front) :].float().mean() < 0.05
    through = PointLift(quality=NO_QUALITY, zbuffer_fallback=False)
    assert lift_by_block([view], xyz, options=through).valid.all()
    assert view_operator(view, xyz, options=through).row_sum().min() > 0


def test_a_live_sensor_adds_view_by_view():
    xyz, views = cloud(), SETS["patches"]()
    moments = lift_by_view(views[:1], xyz)
    for view in views[1:]:
        add_view(moments, view, xyz)
    assert_same(moments.finish(), lift_by_block(views, xyz))


# ---- robust -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_robust_lifting_follows_the_majority(backend):
    truth, lie = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    views = [patches(i, rows=(lie if i == 2 else truth).repeat(16, 1)) for i in range(6)]
    xyz = torch.tensor([[0.5, 0.5, 2.0]])
    options = PointLift(quality=NO_QUALITY, backend=backend)
    plain = lift_by_block(views, xyz, options=options)
    robust = lift_by_block(views, xyz, options=options, robust=RobustLift())
    assert plain.rows[0, 1].item() == pytest.approx(1 / 6, abs=1e-6)
    assert robust.rows[0, 1].item() < 0.03
    # Being outvoted does not make a view unseen.
    assert torch.equal(robust.weight, plain.weight)
    assert torch.allclose(robust.disagreement, plain.disagreement)


def test_robust_lifting_keeps_what_all_agree_on():
    views = [patches(i, rows=torch.tensor([3.0, 4]).repeat(16, 1)) for i in range(3)]
    lifted = lift_by_block(views, cloud(), robust=RobustLift())
    assert torch.allclose(lifted.rows[lifted.valid], torch.tensor([3.0, 4]))


@pytest.mark.parametrize("tuning", [0.0, -1.0, math.nan, math.inf])
def test_robust_tuning_must_be_positive(tuning):
    with pytest.raises(ValueError, match="tuning > 0"):
        RobustLift(tuning=tuning)


# ---- where the result goes ----------------------------------------------------------------


def test_out_is_written_and_returned():
    out = torch.full((60, 3), math.nan)
    lifted = lift_by_block(SETS["patches"](), cloud(), out=out)
    assert lifted.rows is out
    assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_out_may_be_a_file(tmp_path, dtype):
    path = tmp_path / "rows"
    file = np.memmap(path, dtype, "w+", shape=(60, 3))
    lift_by_block(SETS["patches"](), cloud(), out=torch.from_numpy(file), block_rows=16)
    file.flush()
    wanted = lift_by_block(SETS["patches"](), cloud()).rows
    read = torch.from_numpy(np.fromfile(path, dtype).reshape(60, 3)).float()
    assert torch.allclose(read, wanted, atol=1e-6 if dtype is np.float32 else 2e-3)


def test_out_may_be_strided():
    out = torch.zeros(3, 60).T
    lift_by_block(SETS["patches"](), cloud(), out=out)
    assert torch.equal(out, lift_by_block(SETS["patches"](), cloud()).rows)


def test_progress_ends_with_all_points():
    seen = []
    lift_by_block(SETS["patches"](), cloud(), block_rows=25, progress=lambda *now: seen.append(now))
    assert seen == [(25, 60), (50, 60), (60, 60)]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_no_points(backend):
    options = PointLift(backend=backend)
    xyz = torch.zeros(0, 3)
    for view in (patches(), patches(depth_m=None)):
        assert lift_by_block([view], xyz, options=options).rows.shape == (0, 3)
        assert lift_by_view([view], xyz, options=options).finish().rows.shape == (0, 3)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_points_that_nobody_sees(backend):
    xyz = torch.tensor([[0.0, 0, -1], [math.nan, 0, 0], [100, 0, 2]])
    options = PointLift(backend=backend)
    for lifted in (
        lift_by_block([patches()], xyz, options=options),
        lift_by_view([patches()], xyz, options=options).finish(),
    ):
        assert not lifted.valid.any()
        assert not lifted.rows.any()
        assert not lifted.weight.any()
        assert not lifted.disagreement.any()


def test_a_view_without_masks_contributes_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    membership = LiftOperator.from_coo(nothing, nothing, torch.zeros(0), shape=(16, 0))
    view = patches(rows=torch.zeros(0, 3), membership=membership)
    assert not lift_by_block([view], cloud()).valid.any()


# ---- lazy views ---------------------------------------------------------------------------


def lru(budget_bytes: int, loads: list[int]) -> LruViews:
    views = SETS["patches"]()

    def load(index: int) -> LiftView:
        loads.append(index)
        return views[index]

    return LruViews(
        load, lambda i: views[i].geometry, num_views=len(views), budget_bytes=budget_bytes
    )


def test_lazy_views_give_the_same_result_and_are_loaded_once_when_they_fit():
    loads: list[int] = []
    lifted = lift_by_block(lru(1 << 20, loads), cloud(), block_rows=10)
    assert_same(lifted, lift_by_block(SETS["patches"](), cloud()))
    assert sorted(loads) == [0, 1, 2, 3]


def test_lazy_views_are_dropped_and_loaded_again_when_they_do_not_fit():
    loads: list[int] = []
    lifted = lift_by_block(lru(300, loads), cloud(), block_rows=10)
    assert_same(lifted, lift_by_block(SETS["patches"](), cloud()))
    assert len(loads) > 4


def test_a_view_that_sees_no_point_is_not_loaded():
    loads: list[int] = []
    far = cloud() + torch.tensor([100.0, 0, 0])
    views = lru(1 << 20, loads)
    lift_by_block(views, far)
    assert loads == [0]  # the first tells the width


def test_lazy_views_check_the_index():
    with pytest.raises(IndexError, match="4 views, got index 4"):
        lru(1, [])[4]
    with pytest.raises(IndexError, match="got index -1"):
        lru(1, []).geometry(-1)


def test_a_list_of_views_is_a_view_set():
    views = ViewList(SETS["patches"]())
    assert len(views) == 4
    assert len(views[1:3]) == 2
    assert views.geometry(2).name == "view 2"
    assert_same(lift_by_block(views, cloud()), lift_by_block(SETS["patches"](), cloud()))


# ---- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("schedule", [lift_by_block, lift_by_view])
def test_a_feature_that_is_not_finite_names_its_view(schedule, backend, bad):
    views = [patches(i) for i in range(3)]
    views[1].rows[:, 2] = bad
    with pytest.raises(ValueError, match=r"^view 1: features to lift must be finite"):
        schedule(views, cloud(), options=PointLift(backend=backend))


def test_features_that_overflow_are_refused():
    with pytest.raises(ValueError, match="too large"):
        lift_by_block([patches(rows=torch.full((16, 2), 1e30))], cloud())


@pytest.mark.parametrize("schedule", [lift_by_block, lift_by_view])
def test_no_views_are_refused(schedule):
    with pytest.raises(ValueError, match="at least one view"):
        schedule([], cloud())


@pytest.mark.parametrize("schedule", [lift_by_block, lift_by_view])
def test_views_of_different_width_are_refused(schedule):
    with pytest.raises(ValueError, match="view 1: all views must have 3 channels, got 4"):
        schedule([patches(0), patches(1, channels=4)], cloud())


def test_out_must_fit():
    with pytest.raises(ValueError, match=r"`out` of shape \(60, 3\)"):
        lift_by_block([patches()], cloud(), out=torch.zeros(60, 4))


@pytest.mark.parametrize("block_rows", [-1, -100])
def test_block_rows_must_be_positive(block_rows):
    with pytest.raises(ValueError, match="block_rows must be 1 or more"):
        lift_by_block([patches()], cloud(), block_rows=block_rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid_hw": (3, 4)}, "needs 12 rows, got 16"),
        ({"membership": LiftOperator.identity(15)}, r"membership must be \(16, 16\)"),
        ({"row_weight": -torch.ones(16)}, "zero or more"),
        ({"row_weight": torch.full((16,), math.nan)}, "finite"),
    ],
)
def test_a_view_whose_parts_do_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=f"view 0: .*{message}"):
        patches(**change)


def test_the_depth_map_must_fit_its_camera():
    view = patches(depth_m=torch.ones(4, 4), depth_camera=camera(hw=(8, 8)))
    with pytest.raises(ValueError, match="depth map"):
        lift_by_block([view], cloud())


def test_visibility_is_the_one_of_the_geometry():
    xyz = cloud()
    seen = visible_points(xyz, camera(), depth_m=wall())
    operator = view_operator(patches(), xyz, options=PLAIN)
    assert torch.equal(torch.nonzero(operator.row_sum()).squeeze(1), seen.index)
