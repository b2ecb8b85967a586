"""The student of panoramas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xmodal.edges import op_class
from xmodal.edges.encode.panorama_net import PanoramaNet
from xmodal.errors import DataError
from xmodal.values import Grids, Video

SMALL: dict[str, Any] = {"size": "micro", "frame_hw": (16, 32), "grid_hw": (8, 16), "levels": 2}


def film(*frames: int) -> Video:
    """Films of so many frames each."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (sum(frames), 3, 24, 48), generator=generator, dtype=torch.uint8)
    return Video(
        rgb=rgb,
        time_s=torch.arange(sum(frames)) * 0.1,
        offsets=torch.tensor([0, *frames]).cumsum(0),
    )


def test_the_first_frame_is_seen() -> None:
    op, given = PanoramaNet(**SMALL), film(1, 0, 3)
    clips = op.describe(given)
    assert clips.offsets.tolist() == [0, 1, 1, 2]
    assert clips.inputs.shape == (2, 3, 16, 32)
    again = op.describe(
        Video(rgb=given.rgb[1:2], time_s=torch.zeros(1), offsets=torch.tensor([0, 1]))
    )
    torch.testing.assert_close(clips.inputs[1:], again.inputs)
    # Grey of half the brightness is zero.
    rgb = torch.full((1, 3, 24, 48), 127, dtype=torch.uint8)
    grey = op.describe(Video(rgb=rgb, time_s=torch.zeros(1), offsets=torch.tensor([0, 1])))
    assert grey.inputs.abs().max() < 0.01


def test_a_recording_without_a_picture_is_not_valid() -> None:
    op = PanoramaNet(**SMALL, positive=True)
    net = op.build(channels=1).eval()
    found = op(net, film(1, 0, 1))
    assert isinstance(found, Grids)
    assert found.grid_hw == (8, 16)
    assert found.valid.view(3, 128).all(dim=1).tolist() == [True, False, True]
    assert (found.rows[:128] > 0).all()


def test_a_turned_picture_is_a_turned_map() -> None:
    """The seed of the map apart, by as many columns as the coarsest map has in one."""
    torch.manual_seed(0)
    net = PanoramaNet(**SMALL).build(channels=2).eval()
    inputs = torch.randn(2, 3, 16, 32)
    maps = net.trunk(inputs).maps
    turned = net.trunk(inputs.roll(16, dims=3)).maps
    for before, after in zip(maps, turned, strict=True):
        torch.testing.assert_close(
            before.roll(before.shape[3] // 2, 3), after, rtol=1e-4, atol=1e-5
        )


def test_training_shows_other_colours_and_the_same_places() -> None:
    op = PanoramaNet(**SMALL)
    inputs = op.describe(film(1, 1)).inputs * 0.3
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    again = op.vary(inputs, torch.Generator().manual_seed(0))
    assert torch.equal(varied, again)
    assert not torch.allclose(varied, inputs)
    # One factor for each colour of a picture.
    factor = (varied * 0.25 + 0.5) / (inputs * 0.25 + 0.5)
    spread = factor.flatten(2)
    torch.testing.assert_close(spread.amin(dim=2), spread.amax(dim=2), rtol=1e-3, atol=1e-3)
    assert (factor.mean(dim=(2, 3)) - 1).abs().max() < 0.33
    still = PanoramaNet(**SMALL, gain=0.0, tint=0.0)
    torch.testing.assert_close(still.vary(inputs, torch.Generator()), inputs)


def test_it_is_an_op_of_encode() -> None:
    assert op_class("encode", "panorama_net") is PanoramaNet


def test_positive_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="positive"):
        PanoramaNet(**SMALL, positive=True).build(channels=3, space="simplex")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": 1.0}, "gain"),
        ({"tint": -0.1}, "tint"),
        ({"dropout": 1.0}, "dropout"),
        ({"levels": 0}, "levels"),
        ({"grid_hw": (4, 32)}, "levels"),
        ({"frame_hw": (8, 64)}, "frame_hw"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PanoramaNet(**settings)
