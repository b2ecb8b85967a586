"""Turns of a camera and motion, from pictures with known truth."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lifting.signals.flow import camera_turn, flow_motion, grey

FOCAL_PX = 60.0


def panorama() -> torch.Tensor:
    """Smooth random texture, 512 x 512."""
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(noise, size=(512, 512), mode="bicubic", align_corners=False)


def photograph(R: torch.Tensor, hw: tuple[int, int] = (64, 96)) -> torch.Tensor:
    """A far wall at z = 1 seen by a camera turned by R (camera to world)."""
    height, width = hw
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5 - height / 2) / FOCAL_PX,
        (torch.arange(width) + 0.5 - width / 2) / FOCAL_PX,
        indexing="ij",
    )
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ R.T
    return functional.grid_sample(
        panorama(), (rays[..., :2] / rays[..., 2:] / 1.6)[None], align_corners=False
    )[0, 0]


def rotation(vector: list[float]) -> torch.Tensor:
    x, y, z = vector
    return torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0.0]]))


@pytest.mark.parametrize(
    "turn", [[0.02, 0, 0], [0, -0.03, 0], [0, 0, 0.04], [0.01, 0.02, -0.015], [0, 0, 0]]
)
def test_known_turns_are_found(turn):
    frames = torch.stack([photograph(torch.eye(3)), photograph(rotation(turn))])
    found = camera_turn(frames, FOCAL_PX)
    assert found.shape == (1, 3)
    assert torch.allclose(found[0], torch.tensor(turn, dtype=torch.float32), atol=5e-4)


def test_turns_add_up_over_a_film():
    steps = [[0.0, 0.01 * math.sin(0.3 * k), 0.005] for k in range(12)]
    R, frames = torch.eye(3), [photograph(torch.eye(3))]
    for step in steps:
        R = R @ rotation(step)
        frames.append(photograph(R))
    found = camera_turn(torch.stack(frames), FOCAL_PX)
    assert torch.allclose(found, torch.tensor(steps), atol=1e-3)


def test_a_thing_that_moves_alone_does_not_turn_the_camera():
    turn = [0.0, 0.02, 0.0]
    frames = torch.stack([photograph(torch.eye(3)), photograph(rotation(turn))])
    frames[0, 20:36, 10:26] = 2.0
    frames[1, 28:44, 14:30] = 2.0
    found = camera_turn(frames, FOCAL_PX)
    assert torch.allclose(found[0], torch.tensor(turn), atol=4e-3)


def test_brightness_has_no_unit_and_flat_pictures_do_not_turn():
    frames = torch.stack([photograph(torch.eye(3)), photograph(rotation([0, 0.02, 0]))])
    assert torch.allclose(
        camera_turn(frames, FOCAL_PX), camera_turn(255 * frames, FOCAL_PX), atol=1e-4
    )
    assert torch.equal(camera_turn(torch.ones(3, 32, 32), 30.0), torch.zeros(2, 3))
    assert camera_turn(torch.ones(1, 32, 32), 30.0).shape == (0, 3)


@pytest.mark.parametrize(("size", "focal_px"), [(15, 20.0), (32, 0.0), (32, -5.0)])
def test_frames_without_room_for_a_turn_are_refused(size, focal_px):
    with pytest.raises(ValueError, match="focal_px > 0"):
        camera_turn(torch.ones(2, size, size), focal_px)


def test_motion_is_the_shift_of_a_ramp():
    ramp = torch.arange(40.0).expand(30, 40)
    frames = torch.stack([ramp, ramp - 2, ramp - 2])
    inside = flow_motion(frames[:, 1:-1, 1:-1])
    # Borders have no slope but do change: 40 of 38 columns.
    assert inside[0] == pytest.approx(2.0 * 36 / 36, rel=0.1)
    assert inside[1] == 0


def test_motion_of_still_flat_and_tiny_films():
    assert flow_motion(torch.ones(4, 8, 8)).tolist() == [0, 0, 0]
    assert flow_motion(torch.ones(1, 8, 8)).shape == (0,)
    with pytest.raises(ValueError, match="3 pixels"):
        flow_motion(torch.ones(4, 2, 8))


def test_grey_keeps_white_and_weighs_green_most():
    colours = torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2)
    weights = grey(colours)[:, 0, 0]
    assert float(weights.sum()) == pytest.approx(1.0)
    assert int(weights.argmax()) == 1
