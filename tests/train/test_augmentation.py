"""Variation of crops: what is kept, what moves, and what may not be combined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.errors import UsageError
from xmodal.point_inputs import input_columns
from xmodal.train.crops import Augment
from xmodal.train.elastic import bend


def cloud(num: int = 500) -> torch.Tensor:
    return torch.rand(num, 3, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("up", ["x", "-y", "z"])
def test_a_mirror_keeps_up_and_distances(up: str) -> None:
    xyz = cloud()
    axis = "xyz".index(up[-1])
    flipped = Augment(shift=False, flip=1.0, up=up).positions(xyz, np.random.default_rng(0))
    sign = -torch.ones(3)
    sign[axis] = 1.0
    assert torch.equal(flipped, xyz * sign)


def test_a_mirror_comes_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    augment = Augment(shift=False, flip=0.25)
    signs = torch.stack([augment.positions(torch.ones(1, 3), rng)[0] for _ in range(400)])
    torch.testing.assert_close(
        (signs < 0).float().mean(dim=0), torch.tensor([0.25, 0.25, 0.0]), atol=0.06, rtol=0
    )


def test_a_tilt_tips_the_room_and_keeps_distances() -> None:
    xyz = cloud(50)
    tipped = Augment(shift=False, tilt_rad=0.3).positions(xyz, np.random.default_rng(0))
    assert (tipped - xyz)[:, 2].abs().max() > 0.01
    torch.testing.assert_close(torch.pdist(tipped), torch.pdist(xyz))


def test_a_bend_has_the_size_it_is_told_and_is_smooth() -> None:
    xyz = cloud(4000)
    size = {"grain_m": 0.4, "magnitude_m": 0.05}
    moved = torch.cat([bend(xyz, np.random.default_rng(s), **size) - xyz for s in range(8)])
    # Between nodes the field is interpolated, which takes some of its spread away.
    assert 0.03 < float(moved.std()) < 0.06
    near = xyz[:100] + 0.001
    both = bend(
        torch.cat([xyz[:100], near]), np.random.default_rng(0), grain_m=0.4, magnitude_m=0.05
    )
    steps = (both[:100] - xyz[:100]) - (both[100:] - near)
    assert steps.norm(dim=1).max() < 0.002


@pytest.mark.parametrize("num", [0, 1, 2])
def test_a_bend_of_hardly_anything(num: int) -> None:
    xyz = torch.ones(num, 3)
    moved = bend(xyz, np.random.default_rng(0), grain_m=0.4, magnitude_m=0.05)
    assert moved.shape == (num, 3)
    assert torch.isfinite(moved).all()


def test_a_field_too_fine_is_refused() -> None:
    with pytest.raises(ValueError, match="raise the grain"):
        bend(cloud() * 100, np.random.default_rng(0), grain_m=0.1, magnitude_m=0.05)


def test_left_out_inputs_are_zero_and_others_stay() -> None:
    columns = input_columns(("rgb", "normals", "height"))
    inputs = torch.rand(20, 5) + 1
    rng = np.random.default_rng(0)
    without = Augment(drop_colour=1.0).inputs(inputs, rng, columns)
    assert without[:, :3].abs().sum() == 0
    assert torch.equal(without[:, 3:], inputs[:, 3:])
    level = Augment(drop_normals=1.0).inputs(inputs, rng, columns)
    assert level[:, 3].abs().sum() == 0
    assert torch.equal(level[:, [0, 1, 2, 4]], inputs[:, [0, 1, 2, 4]])
    assert (inputs > 0).all()


def test_columns_of_inputs_by_hand() -> None:
    assert input_columns(("height", "rgb", "xyz")) == {
        "height": slice(0, 1),
        "rgb": slice(1, 4),
        "xyz": slice(4, 46),
    }


def test_crops_are_varied_one_by_one(toy: ModuleType, tmp_path: Path) -> None:
    made = toy.student()
    seen: list[Any] = []
    encode = made.net.encode

    def watched(xyz: Any, offsets: Any, inputs: Any) -> Any:
        seen.append((offsets, inputs))
        return encode(xyz, offsets, inputs)

    made.net.encode = watched
    augment = Augment(drop_colour=0.5)
    toy.train(tmp_path, made, options=replace(toy.OPTIONS, steps=8, augment=augment))
    dropped = [
        bool((part[:, :3] == 0).all())
        for offsets, inputs in seen
        for part in inputs.split(offsets.diff().tolist())
    ]
    assert len(dropped) == 16
    assert 0 < sum(dropped) < 16
    assert any(dropped[i] != dropped[i + 1] for i in range(0, 16, 2))


@pytest.mark.parametrize(
    ("inputs", "augment", "message"),
    [
        (("rgb", "height"), Augment(tilt_rad=0.1), "height"),
        (("rgb", "normals"), Augment(tilt_rad=0.1), "normals"),
        (("normals",), Augment(rotate_rad=0.1, up="y"), "take z for up"),
        (("height",), Augment(flip=0.5, up="-x"), "take z for up"),
        (("normals", "height"), Augment(drop_colour=0.5), "rgb"),
        (("rgb",), Augment(drop_normals=0.5), "normals"),
    ],
)
def test_variation_that_makes_inputs_untrue_or_does_nothing_is_refused(
    toy: ModuleType, tmp_path: Path, inputs: Any, augment: Augment, message: str
) -> None:
    made = toy.student(replace(toy.MLP, inputs=inputs))
    with pytest.raises(UsageError, match=message):
        toy.train(tmp_path, made, options=replace(toy.OPTIONS, augment=augment))


def test_a_student_of_colour_alone_may_be_tilted(toy: ModuleType, tmp_path: Path) -> None:
    made = toy.student(SparseUnet(voxel_m=0.2, inputs=("rgb",)))
    options = replace(toy.OPTIONS, steps=1, augment=Augment(tilt_rad=0.3))
    toy.train(tmp_path, made, options=options)


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 1.5},
        {"drop_colour": -0.1},
        {"drop_normals": float("nan")},
        {"tilt_rad": -1.0},
        {"elastic_m": float("inf")},
        {"elastic_grain_m": 0.0},
    ],
)
def test_amounts_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="augmentation"):
        Augment(**change)
