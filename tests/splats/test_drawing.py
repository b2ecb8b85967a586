"""Values of splats in a frame."""

from __future__ import annotations

import numpy as np
import torch

from lifting.cameras import Camera
from lifting.gaussians.splats import Splats
from xmodal.splats.drawing import SplatRenderer

CAMERA = Camera(
    K=torch.tensor([[40.0, 0, 20], [0, 40.0, 10], [0, 0, 1]]), T_world_cam=torch.eye(4), hw=(20, 40)
)


def two(opacity: float = 0.95) -> Splats:
    """One large flat splat on the left, one on the right."""
    return Splats(
        means=torch.tensor([[-0.25, 0.0, 1.0], [0.25, 0.0, 1.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        scales=torch.tensor([[0.1, 0.1, 0.01]] * 2),
        opacities=torch.full((2,), opacity),
    )


def test_a_pixel_shows_what_is_drawn_there() -> None:
    image = SplatRenderer(two()).render(np.array([0.2, 0.8], np.float32), CAMERA)
    assert image.shape == (10, 20)
    np.testing.assert_allclose(image[5, [4, 15]], [0.2, 0.8], atol=1e-3)
    assert np.isnan(image[0, 0])


def test_columns_know_by_themselves_what_was_observed() -> None:
    values = np.array([[0.2, np.nan], [0.8, 0.4]], np.float32)
    image = SplatRenderer(two(), stride=1).render(values, CAMERA)
    assert image.shape == (20, 40, 2)
    np.testing.assert_allclose(image[10, 10, 0], 0.2, atol=1e-3)
    assert np.isnan(image[10, 10, 1])
    np.testing.assert_allclose(image[10, 30], [0.8, 0.4], atol=1e-3)


def test_what_hardly_stops_light_shows_nothing() -> None:
    assert np.isnan(SplatRenderer(two(0.3)).render(np.ones(2, np.float32), CAMERA)).all()
