"""SSIM, L1, PSNR and depth L1 against hand-worked values and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from lifting.gaussians.image_loss import depth_l1, l1, photo_loss, psnr, ssim, ssim_map


def _image(seed: int, hw: tuple[int, int] = (20, 17)) -> torch.Tensor:
    return torch.rand(3, *hw, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scipy_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    tap = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    tap /= tap.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        once = correlate1d(image, tap, axis=1, mode="constant")
        return correlate1d(once, tap, axis=2, mode="constant")

    mean_1, mean_2 = blur(first), blur(second)
    spread_1 = blur(first**2) - mean_1**2
    spread_2 = blur(second**2) - mean_2**2
    shared = blur(first * second) - mean_1 * mean_2
    upper = (2 * mean_1 * mean_2 + 1e-4) * (2 * shared + 9e-4)
    return upper / ((mean_1**2 + mean_2**2 + 1e-4) * (spread_1 + spread_2 + 9e-4))


def test_ssim_is_the_formula() -> None:
    first, second = _image(0), _image(1)
    wanted = _scipy_ssim(first.numpy(), second.numpy())
    torch.testing.assert_close(ssim_map(first, second), torch.from_numpy(wanted))
    assert float(ssim(first, second)) == pytest.approx(wanted.mean())


def test_ssim_of_flat_images_is_that_of_their_means() -> None:
    # Far from the border no spread is left: (2ab + C1) / (a^2 + b^2 + C1).
    first = torch.full((1, 21, 21), 0.2, dtype=torch.float64)
    second = torch.full((1, 21, 21), 0.6, dtype=torch.float64)
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert float(ssim_map(first, second)[0, 10, 10]) == pytest.approx(wanted, rel=1e-9)


@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=10)
def test_ssim_is_symmetric_and_one_for_equals(seed: int) -> None:
    first, second = _image(seed), _image(seed + 100)
    assert float(ssim(first, first)) == pytest.approx(1)
    torch.testing.assert_close(ssim_map(first, second), ssim_map(second, first))
    assert float(ssim_map(first, second).max()) <= 1 + 1e-12


def test_images_smaller_than_the_window() -> None:
    first = torch.tensor([[[0.5]]], dtype=torch.float64)
    assert float(ssim(first, first)) == pytest.approx(1)


def test_l1_and_psnr_by_hand() -> None:
    first = torch.zeros(3, 1, 2)
    second = torch.tensor([0.1, 0.3]).expand(3, 1, 2)
    assert float(l1(first, second)) == pytest.approx(0.2)
    # Mean square (0.01 + 0.09) / 2 = 0.05.
    assert float(psnr(first, second)) == pytest.approx(-10 * math.log10(0.05), rel=1e-5)
    assert float(psnr(first, first)) == math.inf
    valid = torch.tensor([[True, False]])
    assert float(l1(first, second, valid)) == pytest.approx(0.1)
    assert float(psnr(first, second, valid)) == pytest.approx(20, rel=1e-5)


def test_pixels_that_do_not_count_have_no_say() -> None:
    first, second = _image(2), _image(3)
    valid = torch.ones(first.shape[1:], dtype=torch.bool)
    valid[:4] = False
    changed = torch.where(valid, second, torch.rand_like(second))
    for measure in (ssim, l1, psnr):
        torch.testing.assert_close(measure(first, second, valid), measure(first, changed, valid))
    changed.requires_grad_()
    photo_loss(changed, first, valid=valid).backward()
    assert changed.grad is not None
    assert not bool(changed.grad[:, ~valid].any())
    assert bool(changed.grad[:, valid].any())


def test_photo_loss_mixes_both() -> None:
    first, second = _image(4), _image(5)
    wanted = 0.7 * l1(first, second) + 0.3 * (1 - ssim(first, second))
    torch.testing.assert_close(photo_loss(first, second, dssim=0.3), wanted)
    torch.testing.assert_close(photo_loss(first, second, dssim=0.0), l1(first, second))


def test_gradients() -> None:
    first, second = _image(6, (6, 5)), _image(7, (6, 5))
    valid = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    first.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: photo_loss(x, second, valid=valid), (first,))
    assert torch.autograd.gradcheck(lambda x: ssim(second, x), (first,))


def test_depth_counts_where_both_have_it() -> None:
    nan, inf = math.nan, math.inf
    rendered = torch.tensor([[1.0, 0.0, 2.0, 3.0, 5.0]], requires_grad=True)
    depth = torch.tensor([[1.5, 1.0, nan, 0.0, inf]])
    loss = depth_l1(rendered, depth)
    assert float(loss.detach()) == pytest.approx(0.5)
    loss.backward()
    assert rendered.grad is not None
    assert rendered.grad.tolist() == [[-1, 0, 0, 0, 0]]
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    assert float(depth_l1(rendered.detach(), depth, nothing)) == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("measure", [ssim_map, ssim, l1, psnr])
def test_images_of_two_sizes(measure: object) -> None:
    with pytest.raises(ValueError, match=r"one shape \[C, H, W\].*\[3, 4, 5\] and \[3, 5, 4\]"):
        measure(torch.zeros(3, 4, 5), torch.zeros(3, 5, 4))


@pytest.mark.usefixtures("unchecked")
def test_wrong_masks() -> None:
    image = torch.zeros(3, 4, 5)
    with pytest.raises(ValueError, match=r"valid must have the size.*\[4, 5\], got \[5, 4\]"):
        l1(image, image, torch.ones(5, 4, dtype=torch.bool))
    for measure in (ssim, psnr):
        with pytest.raises(ValueError, match="at least one pixel, got none"):
            measure(image, image, torch.zeros(4, 5, dtype=torch.bool))


def test_wrong_share() -> None:
    image = torch.zeros(3, 4, 5)
    with pytest.raises(ValueError, match=r"dssim must be a share in \[0, 1\], got 1.5"):
        photo_loss(image, image, dssim=1.5)


@pytest.mark.usefixtures("unchecked")
def test_depth_of_two_sizes() -> None:
    with pytest.raises(ValueError, match="equally large"):
        depth_l1(torch.zeros(2, 3), torch.zeros(3, 2))
