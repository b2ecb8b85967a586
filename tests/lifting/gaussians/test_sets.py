"""Patches and masks as sets of splats, and where a drawing meets a taken picture."""

from __future__ import annotations

from typing import Any, Literal

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from lifting.cameras import Camera
from lifting.gaussians.closed_form import SplatView
from lifting.gaussians.sets import PixelSets, pixel_sets, shown_sets
from lifting.gaussians.teacher_views import drawing_camera, mask_level_taps, view_taps
from lifting.operator import LiftOperator
from lifting.views import LiftView


def dense(matrix: list[list[float]]) -> LiftOperator:
    values = torch.tensor(matrix).float()
    row, col = values.nonzero().unbind(1)
    return LiftOperator.from_coo(row, col, values[row, col], shape=tuple(values.shape))


# Four pixels, three splats; two patches of two pixels each.
WEIGHTS = dense([[0.5, 0.0, 0.1], [0.5, 0.3, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.0]])
NONE = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
TAPS = dense([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def seen(rows: int = 2) -> SplatView:
    return SplatView(weights=WEIGHTS, rows=torch.rand(rows, 5), taps=TAPS, name="0")


def test_a_set_has_the_light_of_each_splat_in_its_pixels() -> None:
    sets = shown_sets(seen())
    assert torch.allclose(sets.members.to_dense(), torch.tensor([[1.0, 0.3, 0.1], [0.0, 0.9, 0.0]]))
    assert torch.allclose(sets.alpha, torch.tensor([0.7, 0.45]))
    assert sets.kept.tolist() == [0, 1]


def test_rows_of_which_little_is_covered_are_left_out() -> None:
    assert shown_sets(seen(), least_alpha=0.5).kept.tolist() == [0]
    assert shown_sets(seen(), least_alpha=1.0).kept.tolist() == []


def test_the_smallest_shares_are_dropped_row_by_row() -> None:
    # 1.0 of 1.4 is 0.71, with the next 0.93: the last one is what makes up the rest.
    most = shown_sets(seen(), keep=0.9).members.to_dense()
    assert torch.allclose(most, torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.9, 0.0]]))
    kept = shown_sets(seen(), keep=0.5).members.to_dense()
    assert torch.allclose(kept, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.9, 0.0]]))


@pytest.mark.parametrize(
    "wrong", [{"keep": 0.0}, {"keep": 1.1}, {"least_alpha": -0.1}, {"least_alpha": 2.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="least_alpha must lie"):
        shown_sets(seen(), **wrong)


def drawn(seed: int = 0, **given: Any) -> PixelSets:
    return pixel_sets(seen(), generator=torch.Generator().manual_seed(seed), **given)


def test_every_pixel_that_shows_a_splat_may_be_drawn() -> None:
    sets = drawn(per_row=5)
    assert sets.pixels.tolist() == [0, 1, 2]  # the last pixel shows nothing
    assert sets.rows.tolist() == [0, 0, 1]
    assert torch.equal(sets.members.to_dense(), WEIGHTS.to_dense()[:3])
    assert torch.allclose(sets.alpha, torch.tensor([0.6, 0.8, 0.9]))


def test_so_many_pixels_of_each_row_are_drawn_by_chance() -> None:
    chosen = {tuple(drawn(seed, per_row=1).pixels.tolist()) for seed in range(20)}
    assert chosen == {(0, 2), (1, 2)}
    assert torch.equal(drawn(3, per_row=1).pixels, drawn(3, per_row=1).pixels)


def test_only_opaque_pixels_are_drawn_and_small_shares_dropped() -> None:
    assert drawn(per_row=5, least_alpha=0.7).pixels.tolist() == [1, 2]
    assert drawn(per_row=5, least_alpha=1.0).pixels.tolist() == []
    most = drawn(per_row=5, keep=0.6).members.to_dense()
    assert torch.allclose(most, torch.tensor([[0.5, 0, 0], [0.5, 0, 0], [0, 0.9, 0]]))


@hypothesis.given(st.integers(0, 99), st.integers(1, 6), st.integers(0, 30))
@hypothesis.settings(deadline=None, max_examples=25)
def test_pixels_of_a_row_are_different_and_as_many_as_there_are(
    seed: int, per_row: int, num: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    weights = torch.rand(num, 4, generator=chance) * (torch.rand(num, 4, generator=chance) > 0.5)
    taps = torch.rand(num, 3, generator=chance) > 0.6
    view = SplatView(
        weights=dense(weights.tolist()) if num else LiftOperator.from_coo(*NONE, shape=(0, 4)),
        rows=torch.rand(3, 2),
        taps=dense(taps.tolist()) if num else LiftOperator.from_coo(*NONE, shape=(0, 3)),
    )
    sets = pixel_sets(view, per_row=per_row, generator=chance)
    pairs = list(zip(sets.rows.tolist(), sets.pixels.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    shown = taps & (weights.sum(1, keepdim=True) > 0)
    assert sets.rows.bincount(minlength=3).tolist() == shown.sum(0).clamp(max=per_row).tolist()
    assert all(bool(taps[pixel, row]) for row, pixel in pairs)


@pytest.mark.parametrize("wrong", [{"per_row": 0}, {"per_row": 1, "keep": 0.0}])
def test_drawing_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"per_row must be|keep in"):
        drawn(**wrong)


# ---- drawings ------------------------------------------------------------------------------------


def camera(hw: tuple[int, int] = (40, 60), distortion: torch.Tensor | None = None) -> Camera:
    K = torch.tensor([[50.0, 0, hw[1] / 2], [0, 50.0, hw[0] / 2], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.eye(4), hw=hw, distortion=distortion)


def test_a_drawing_keeps_the_view_and_loses_the_lens() -> None:
    lens = camera(distortion=torch.tensor([0.1, 0.0, 0.0, 0.0]))
    drawn = drawing_camera(lens, 30)
    assert drawn.hw == (20, 30)
    assert drawn.coefficients is None
    assert torch.allclose(drawn.K[:2, 2], torch.tensor([15.0, 10.0]))
    assert drawing_camera(lens).hw == lens.hw
    assert drawing_camera(lens, 500).hw == lens.hw


def test_a_drawing_needs_pixels() -> None:
    with pytest.raises(ValueError, match="max_side_px must be 1 or more"):
        drawing_camera(camera(), 0)


def test_pixels_read_the_patch_at_their_place() -> None:
    view = LiftView(camera=camera(), rows=torch.rand(6, 3), grid_hw=(2, 3))
    taps = view_taps(view, drawing_camera(view.camera, 3))
    # Two rows of three drawn pixels: each lies in the middle of a patch.
    assert taps.shape == (6, 6)
    assert torch.allclose(taps.to_dense(), torch.eye(6))


def test_a_bent_picture_is_read_where_the_lens_puts_a_direction() -> None:
    lens = camera(distortion=torch.tensor([0.4, 0.0, 0.0, 0.0]))
    columns = torch.arange(60).float().repeat(40, 1).reshape(-1, 1)
    view = LiftView(camera=lens, rows=columns, grid_hw=(40, 60))
    drawn = drawing_camera(lens)
    read = view_taps(view, drawn).apply(columns).reshape(40, 60)
    assert read[20, 30] == pytest.approx(30, abs=0.1)
    # At x/z = 0.41 the lens bends outward by 0.4 * 0.41^2 = 6.7 %: 20.5 px become 21.9.
    assert read[20, 50] == pytest.approx(51.4, abs=0.1)
    assert view_taps(view, drawn).row_sum().reshape(40, 60)[0, 0] == 0  # beyond the picture


@pytest.mark.parametrize(("level", "wanted"), [("smallest", 2), ("middle", 1), ("largest", 0)])
def test_a_level_is_one_mask_a_pixel(
    level: Literal["smallest", "middle", "largest"], wanted: int
) -> None:
    # Mask 0 covers all four pixels, mask 1 three, mask 2 the first.
    membership = dense([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]])
    view = LiftView(
        camera=camera((2, 2)), rows=torch.rand(3, 4), grid_hw=(2, 2), membership=membership
    )
    taps = mask_level_taps(level)(view, drawing_camera(view.camera))
    assert taps.row_sum().tolist() == [1, 1, 1, 1]
    assert taps.col[0] == wanted
    assert taps.col[3] == 0


def test_a_level_of_a_teacher_without_masks_is_refused() -> None:
    view = LiftView(camera=camera(), rows=torch.rand(6, 3), grid_hw=(2, 3), name="frame-7")
    with pytest.raises(ValueError, match="frame-7: a level of masks"):
        mask_level_taps("smallest")(view, drawing_camera(view.camera, 3))
