import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from torch.nn import functional

from lifting.cameras import pixel_centres
from lifting.operator import LiftOperator
from lifting.sampling import bilinear_taps, membership_taps, nearest_cell, patch_taps

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def dense(grid: torch.Tensor, grid_hw, image_hw) -> torch.Tensor:
    """The up-sampled map, one row per pixel."""
    channels = grid.shape[1]
    maps = grid.T.reshape(1, channels, *grid_hw)
    up = functional.interpolate(maps, image_hw, mode="bilinear", align_corners=False)
    return up[0].reshape(channels, -1).T


# ---- literal cases ------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True])
def test_bilinear_by_hand(grad):
    # 2 x 2 patches over a 4 x 4 image: patch centres lie at pixels 1 and 3.
    uv = torch.tensor(((1.0, 1), (2, 1), (2, 2), (0, 0), (1.5, 3)), requires_grad=grad)
    taps = patch_taps(uv, image_hw=(4, 4), grid_hw=(2, 2))
    wanted = torch.tensor(
        ((1.0, 0, 0, 0), (0.5, 0.5, 0, 0), (0.25,) * 4, (1, 0, 0, 0), (0, 0, 0.75, 0.25))
    )
    assert torch.equal(taps.to_dense(), wanted)
    assert taps.crow.tolist() == [0, 4, 8, 12, 16, 20]


def test_nearest_by_hand():
    uv = torch.tensor(((0.0, 0), (1.99, 0), (2, 0), (3.99, 3.99), (4, 0)))
    taps = patch_taps(uv, image_hw=(4, 4), grid_hw=(2, 2), mode="nearest")
    assert taps.col.tolist() == [0, 0, 1, 3, 0]
    assert taps.weight.tolist() == [1, 1, 1, 1, 0]


def test_a_single_patch_is_the_same_everywhere():
    uv = torch.tensor(((0.0, 0), (2.2, 1.1), (3.9, 2.9)))
    taps = patch_taps(uv, image_hw=(3, 4), grid_hw=(1, 1))
    assert torch.allclose(taps.row_sum(), torch.ones(3))


# ---- the claim: patch space equals up-sampling --------------------------------------------


@settings(deadline=None, max_examples=30)
@given(image_hw=sizes, grid_hw=sizes, grad=st.booleans())
def test_equals_interpolation_at_every_pixel(image_hw, grid_hw, grad):
    grid = torch.randn(grid_hw[0] * grid_hw[1], 3, dtype=torch.float64)
    uv = pixel_centres(image_hw, dtype=torch.float64).requires_grad_(grad)
    taps = patch_taps(uv, image_hw=image_hw, grid_hw=grid_hw)
    assert torch.allclose(taps.apply(grid), dense(grid, grid_hw, image_hw), atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), image_hw=sizes, grid_hw=sizes)
def test_equals_grid_sample_between_pixels(seed, image_hw, grid_hw):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor((image_hw[1], image_hw[0]), dtype=torch.float64)
    uv = torch.rand(40, 2, generator=generator, dtype=torch.float64) * size
    grid = torch.randn(grid_hw[0] * grid_hw[1], 2, generator=generator, dtype=torch.float64)
    where = (2 * uv / size - 1)[None, :, None]
    maps = grid.T.reshape(1, 2, *grid_hw)
    wanted = functional.grid_sample(maps, where, align_corners=False, padding_mode="border")
    taps = patch_taps(uv, image_hw=image_hw, grid_hw=grid_hw)
    assert torch.allclose(taps.apply(grid), wanted[0, :, :, 0].T, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), image_hw=sizes, grid_hw=sizes, dtype=st.sampled_from((32, 64)))
def test_compiled_and_plain_taps_agree(seed, image_hw, grid_hw, dtype):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor((image_hw[1], image_hw[0]))
    uv = (torch.rand(50, 2, generator=generator) * 1.4 - 0.2) * size
    uv[0, 0], uv[1, 1] = math.nan, math.inf
    uv = uv.to(torch.float32 if dtype == 32 else torch.float64)
    fast = patch_taps(uv, image_hw=image_hw, grid_hw=grid_hw)
    plain = patch_taps(uv.clone().requires_grad_(), image_hw=image_hw, grid_hw=grid_hw)
    assert torch.allclose(fast.to_dense(), plain.to_dense().detach(), atol=1e-5)
    assert fast.weight.dtype == plain.weight.dtype == uv.dtype


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), mode=st.sampled_from(("bilinear", "nearest")))
def test_rows_sum_to_one_inside_and_zero_outside(seed, mode):
    generator = torch.Generator().manual_seed(seed)
    uv = torch.rand(200, 2, generator=generator) * 14 - 2
    inside = ((uv >= 0) & (uv < torch.tensor((10.0, 8)))).all(-1)
    taps = patch_taps(uv, image_hw=(8, 10), grid_hw=(3, 4), mode=mode)
    assert torch.allclose(taps.row_sum(), inside.float())
    assert (taps.weight >= 0).all()
    # Every entry may be read, so columns stay valid even where the weight is 0.
    assert (taps.col >= 0).all()
    assert (taps.col < 12).all()


def test_adjoint():
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 8
    taps = patch_taps(uv, image_hw=(8, 8), grid_hw=(3, 3))
    x = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    assert torch.allclose((taps.apply(x) * y).sum(), (x * taps.adjoint(y)).sum())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 1e30])
@pytest.mark.parametrize("grad", [False, True])
def test_nothing_that_is_not_in_the_image_weighs(bad, grad):
    uv = torch.tensor(((bad, 1.0), (1.0, bad), (1.0, 1.0)), requires_grad=grad)
    taps = patch_taps(uv, image_hw=(4, 4), grid_hw=(2, 2))
    assert taps.row_sum().tolist() == [0, 0, 1]
    assert taps.apply(torch.ones(4, 2)).isfinite().all()


def test_gradient_in_the_pixel():
    uv = torch.tensor(((1.3, 2.2), (3.1, 0.7), (5.9, 3.9)), dtype=torch.float64, requires_grad=True)
    grid = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)

    def sample(uv, grid):
        return patch_taps(uv, image_hw=(4, 6), grid_hw=(3, 4)).apply(grid)

    torch.autograd.gradcheck(sample, (uv, grid))


def test_gradient_of_bad_pixels_is_zero():
    uv = torch.tensor(((math.nan, 1.0), (1.4, 1.2)), requires_grad=True)
    patch_taps(uv, image_hw=(4, 4), grid_hw=(2, 2)).apply(torch.randn(4, 1)).sum().backward()
    assert uv.grad is not None
    assert uv.grad[0].tolist() == [0, 0]
    assert uv.grad.isfinite().all()


def test_empty_and_non_contiguous_input():
    assert patch_taps(torch.zeros(0, 2), image_hw=(4, 4), grid_hw=(2, 2)).shape == (0, 4)
    uv = torch.rand(9, 4) * 4
    strided = bilinear_taps(uv[:, ::2], image_hw=(4, 4), grid_hw=(2, 2))
    whole = bilinear_taps(uv[:, ::2].contiguous(), image_hw=(4, 4), grid_hw=(2, 2))
    assert torch.equal(strided[1], whole[1])


# ---- masks --------------------------------------------------------------------------------


def random_membership(generator, pixels=12, masks=5) -> LiftOperator:
    covered = torch.rand(pixels, masks, generator=generator) < 0.4
    row, col = torch.nonzero(covered, as_tuple=True)
    weight = torch.rand(len(row), generator=generator, dtype=torch.float64)
    return LiftOperator.from_coo(row, col, weight, shape=(pixels, masks))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_masks_equal_painting_them(seed):
    generator = torch.Generator().manual_seed(seed)
    membership = random_membership(generator)
    uv = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 10 - 1
    taps = membership_taps(uv, membership, image_hw=(6, 8), grid_hw=(3, 4))
    painted = membership.to_dense()
    wanted = torch.zeros(30, 5, dtype=torch.float64)
    for i, (u, v) in enumerate(uv.tolist()):
        if 0 <= u < 8 and 0 <= v < 6:
            wanted[i] = painted[int(v / 2) * 4 + int(u / 2)]
    assert torch.equal(taps.to_dense(), wanted)


def test_masks_equal_composition():
    generator = torch.Generator().manual_seed(0)
    membership = random_membership(generator)
    uv = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 6
    taps = membership_taps(uv, membership, image_hw=(6, 8), grid_hw=(3, 4))
    composed = patch_taps(uv, image_hw=(6, 8), grid_hw=(3, 4), mode="nearest") @ membership
    assert torch.allclose(taps.to_dense(), composed.to_dense())


def test_mask_weights_carry_gradients():
    generator = torch.Generator().manual_seed(0)
    membership = random_membership(generator)
    weight = membership.weight.clone().requires_grad_()
    uv = torch.rand(20, 2, generator=generator) * 6
    taps = membership_taps(uv, membership.with_weight(weight), image_hw=(6, 8), grid_hw=(3, 4))
    taps.apply(torch.ones(5, 1, dtype=torch.float64)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.sum() == taps.nnz


def test_no_masks_and_no_points():
    none = LiftOperator(
        crow=torch.zeros(13, dtype=torch.int64),
        col=torch.zeros(0, dtype=torch.int64),
        weight=torch.zeros(0),
        num_sources=0,
    )
    for uv in (torch.ones(3, 2), torch.ones(0, 2)):
        assert membership_taps(uv, none, image_hw=(6, 8), grid_hw=(3, 4)).nnz == 0


def test_nearest_cell_at_the_last_fraction_of_a_pixel():
    # 0.99999994 of 7 pixels times 13/7 rounds up to 13 in float32.
    uv = torch.tensor(((torch.tensor(7.0).nextafter(torch.tensor(0.0)).item(), 0.0),))
    assert nearest_cell(uv, image_hw=(1, 7), grid_hw=(1, 13)).tolist() == [12]
    assert (bilinear_taps(uv, image_hw=(1, 7), grid_hw=(1, 13))[0] <= 12).all()


# ---- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{"image_hw": (0, 4)}, {"grid_hw": (2, 0)}, {"grid_hw": (-1, 2)}])
def test_bad_sizes_are_refused(sizes):
    name = next(iter(sizes))
    with pytest.raises(ValueError, match=f"{name} must be two positive sizes"):
        patch_taps(torch.ones(1, 2), **({"image_hw": (4, 4), "grid_hw": (2, 2)} | sizes))


def test_membership_of_another_grid_is_refused():
    membership = random_membership(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"grid of \(4, 4\) has 16 pixels.*12 rows"):
        membership_taps(torch.ones(1, 2), membership, image_hw=(6, 8), grid_hw=(4, 4))


def test_unknown_mode_is_refused():
    config.update("jaxtyping_disable", True)  # as users run it, without shape checking
    try:
        with pytest.raises(ValueError, match="bilinear or nearest, got 'cubic'"):
            patch_taps(torch.ones(1, 2), image_hw=(4, 4), grid_hw=(2, 2), mode="cubic")
    finally:
        config.update("jaxtyping_disable", False)


def test_shapes_are_checked():
    with pytest.raises(TypeError, match="uv"):
        patch_taps(torch.ones(3, 3), image_hw=(4, 4), grid_hw=(2, 2))
