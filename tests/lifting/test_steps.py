import math

import numpy as np
import pytest
import torch
from jaxtyping import config

from lifting import steps
from lifting.moments import Lifted
from lifting.steps import complete, shrink, smooth, smoothing_operator


def lifted(rows, views, valid=None) -> Lifted:
    views = torch.as_tensor(views)
    return Lifted(
        rows=torch.tensor(rows, dtype=torch.float32),
        valid=views > 0 if valid is None else torch.tensor(valid),
        weight=views.float(),
        num_views=views,
        disagreement=torch.zeros(len(views)),
    )


def line(*x_m: float) -> torch.Tensor:
    return torch.tensor([[x, 0.0, 0.0] for x in x_m])


@pytest.fixture(params=["one slice", "many slices"], autouse=True)
def slices(request, monkeypatch):
    if request.param == "many slices":
        monkeypatch.setattr(steps, "_SLICE", 3)
        monkeypatch.setattr(steps, "_QUERIES", 2)


# ---- shrinkage ----------------------------------------------------------------------------


def test_shrink_by_hand():
    # (views * row + strength * prior) / (views + strength)
    before = lifted([[4.0, 0], [0, 8], [0, 0]], [1, 3, 0])
    after = shrink(before, torch.tensor([2.0, 2]), strength=1.0)
    assert torch.allclose(after.rows, torch.tensor([[3.0, 1], [0.5, 6.5], [0, 0]]))
    assert after.valid.tolist() == [True, True, False]
    assert torch.equal(after.weight, before.weight)
    assert before.rows[0, 0] == 4


def test_shrink_pulls_toward_the_mean_over_views():
    after = shrink(lifted([[4.0], [0]], [1, 3]), strength=2.0)
    mean = (4 * 1 + 0 * 3) / 4
    assert after.rows.squeeze(1).tolist() == pytest.approx([(4 + 2 * mean) / 3, 2 * mean / 5])


def test_shrink_in_place_overwrites_the_rows():
    before = lifted([[4.0], [0]], [1, 3])
    wanted = shrink(before).rows.clone()
    after = shrink(before, in_place=True)
    assert after.rows is before.rows
    assert torch.equal(before.rows, wanted)


def test_strength_zero_changes_nothing():
    before = lifted([[4.0, 1], [0, 2], [0, 0]], [1, 3, 0])
    assert torch.allclose(shrink(before, strength=0.0).rows, before.rows)


def test_a_filled_point_without_views_becomes_the_prior():
    before = lifted([[4.0], [6.0]], [0, 1], valid=[True, True])
    assert shrink(before, torch.tensor([1.0])).rows.squeeze(1).tolist() == [1, 3.5]


def test_shrinking_nothing():
    assert shrink(lifted(np.zeros((0, 3)), np.zeros(0, int))).rows.shape == (0, 3)


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_shrink_refuses_other_strengths(strength):
    with pytest.raises(ValueError, match="strength"):
        shrink(lifted([[1.0]], [1]), strength=strength)


def test_shrink_refuses_a_prior_of_other_width():
    with pytest.raises(ValueError, match="width 1"):
        shrink(lifted([[1.0]], [1]), torch.zeros(2))


# ---- smoothing ----------------------------------------------------------------------------


def test_smooth_by_hand():
    xyz, valid = line(0, 1, 2, 5), torch.ones(4, dtype=torch.bool)
    rows = torch.tensor([[0.0, 9], [3, 9], [6, 9], [7, 9]])
    out = smooth(xyz, rows, valid, 1.0)
    assert torch.allclose(out, torch.tensor([[1.5, 9], [3, 9], [4.5, 9], [7, 9]]))
    assert rows[0, 0] == 0


def test_unobserved_points_neither_give_nor_take():
    xyz, valid = line(0, 0.5, 1), torch.tensor([True, False, True])
    rows = torch.tensor([[2.0], [math.nan], [4]])
    out = smooth(xyz, rows, valid, 1.0)
    assert out[[0, 2]].tolist() == [[3], [3]]
    assert out[1].isnan()  # as it was


def test_smooth_in_place_reads_only_what_was_there():
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(200, 3, generator=generator)
    rows = torch.rand(200, 11, generator=generator)
    valid = torch.rand(200, generator=generator) < 0.8
    wanted = smooth(xyz, rows, valid, 0.2)
    assert smooth(xyz, rows, valid, 0.2, in_place=True) is rows
    assert torch.equal(rows, wanted)


def test_smooth_works_on_a_file(tmp_path):
    xyz, valid = line(0, 1), torch.ones(2, dtype=torch.bool)
    file = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(2, 3))
    file[:] = [[0, 1, 2], [2, 3, 4]]
    smooth(xyz, torch.from_numpy(file), valid, 1.5, in_place=True)
    file.flush()
    assert np.fromfile(tmp_path / "rows", np.float32).tolist() == [1, 2, 3] * 2


def test_smoothing_operator_matches_brute_force():
    generator = torch.Generator().manual_seed(1)
    xyz = torch.rand(80, 3, generator=generator)
    valid = torch.rand(80, generator=generator) < 0.7
    near = (torch.cdist(xyz.double(), xyz.double()) <= 0.3) & valid & valid[:, None]
    wanted = near.float() / near.sum(1).clamp_min(1)[:, None]
    operator = smoothing_operator(xyz, valid, 0.3, max_neighbours=80)
    assert torch.allclose(operator.to_dense(), wanted)


def test_at_most_so_many_neighbours():
    operator = smoothing_operator(line(0, 1, 2, 3), torch.ones(4, dtype=torch.bool), 9.0, 2)
    assert operator.crow.diff().tolist() == [2] * 4
    assert operator.to_dense()[0].tolist() == [0.5, 0.5, 0, 0]


def test_smoothing_keeps_constants_and_order_does_not_matter():
    generator = torch.Generator().manual_seed(2)
    xyz = torch.rand(100, 3, generator=generator)
    valid = torch.ones(100, dtype=torch.bool)
    assert torch.allclose(smooth(xyz, torch.full((100, 2), 3.0), valid, 0.2), torch.tensor(3.0))
    rows, order = torch.rand(100, 2), torch.randperm(100, generator=generator)
    shuffled = smooth(xyz[order], rows[order], valid, 0.2, max_neighbours=100)
    assert torch.allclose(shuffled, smooth(xyz, rows, valid, 0.2, max_neighbours=100)[order])


def test_smoothing_nothing():
    none = torch.zeros(0, dtype=torch.bool)
    assert smooth(torch.zeros(0, 3), torch.zeros(0, 4), none, 0.1).shape == (0, 4)
    nobody = torch.zeros(3, dtype=torch.bool)
    assert smoothing_operator(line(0, 1, 2), nobody, 1.0).nnz == 0


@pytest.mark.parametrize("radius_m", [0.0, -1.0, math.nan, math.inf])
def test_smoothing_refuses_other_radii(radius_m):
    with pytest.raises(ValueError, match="radius"):
        smoothing_operator(line(0), torch.ones(1, dtype=torch.bool), radius_m)


@pytest.fixture
def unchecked():
    """As users run it, without shape checking."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_smoothing_refuses_lengths_that_differ():
    with pytest.raises(ValueError, match="as many rows, got 2"):
        smooth(line(0), torch.zeros(2, 1), torch.ones(1, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match="as many valid flags"):
        smoothing_operator(line(0), torch.ones(2, dtype=torch.bool), 1.0)


def test_smoothing_refuses_observed_points_without_a_place():
    with pytest.raises(ValueError, match="NaN or infinite"):
        smoothing_operator(line(0, math.nan), torch.ones(2, dtype=torch.bool), 1.0)


# ---- completion ---------------------------------------------------------------------------


def test_complete_by_hand_and_in_place():
    xyz = line(0, 1, 3, 50)
    before = lifted([[0.0, 4], [0, 0], [6, 4], [0, 0]], [2, 0, 1, 0])
    after, filled = complete(xyz, before, k=2, max_distance_m=10.0)
    # Inverse distances 1 and 1/2: weights 2/3 and 1/3.
    assert torch.allclose(after.rows[1], torch.tensor([2.0, 4]))
    assert after.rows is before.rows
    assert filled.tolist() == [False, True, False, False]
    assert after.valid.tolist() == [True, True, True, False]
    assert after.weight.tolist() == [2, 0, 1, 0]
    assert after.num_views.tolist() == [2, 0, 1, 0]


def test_complete_equals_the_whole_array_form():
    from lifting.completion import complete_knn

    generator = torch.Generator().manual_seed(3)
    xyz = torch.rand(150, 3, generator=generator)
    views = (torch.rand(150, generator=generator) < 0.5).long()
    rows = torch.rand(150, 4, generator=generator) * views[:, None]
    wanted = complete_knn(xyz, rows, views > 0, 3, 0.3)
    after, filled = complete(xyz, lifted(rows.tolist(), views.tolist()), 3, 0.3)
    assert torch.allclose(after.rows, wanted.rows, atol=1e-6)
    assert torch.equal(filled, wanted.filled)


def test_complete_with_nothing_to_fill():
    before = lifted([[1.0], [2]], [1, 1])
    after, filled = complete(line(0, 1), before, 3, 1.0)
    assert not filled.any()
    assert after.rows.squeeze(1).tolist() == [1, 2]


@pytest.mark.parametrize(("k", "max_distance_m"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_complete_refuses_other_settings(k, max_distance_m):
    with pytest.raises(ValueError, match=r"neighbours|max_distance_m"):
        complete(line(0, 1), lifted([[1.0], [0]], [1, 0]), k, max_distance_m)


def test_share_of_segments_by_hand():
    rows = torch.tensor([[0.0], [2.0], [10.0], [6.0], [8.0]])
    valid = torch.tensor([True, True, False, True, True])
    segments = torch.tensor([0, 0, 0, 1, -1])
    mixed = steps.share_segments(rows, valid, segments, 0.5)
    # segment 0 has mean 1 over its two observed points; 1 is alone; -1 is in none
    torch.testing.assert_close(mixed, torch.tensor([[0.5], [1.5], [10.0], [6.0], [8.0]]))
    torch.testing.assert_close(steps.share_segments(rows, valid, segments, 0.0), rows)


def test_share_of_segments_keeps_the_sum_over_a_segment():
    torch.manual_seed(0)
    rows, segments = torch.rand(60, 3), torch.randint(0, 7, (60,))
    valid = torch.ones(60, dtype=torch.bool)
    mixed = steps.share_segments(rows, valid, segments, 0.8)
    for name in range(7):
        inside = segments == name
        torch.testing.assert_close(mixed[inside].sum(0), rows[inside].sum(0))
    torch.testing.assert_close(
        steps.share_segments(rows.clone(), valid, segments, 0.8, in_place=True), mixed
    )


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_outside_of_its_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        steps.share_segments(
            torch.ones(2, 1), torch.ones(2).bool(), torch.zeros(2, dtype=torch.long), share
        )
