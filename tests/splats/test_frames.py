"""Frames one by one and together, in memory and in a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifting.operator import LiftOperator
from tests.xmodal.drawn_scene import CHANNELS, GRID, HW, above, floor, frame, frames
from xmodal.errors import DataError
from xmodal.splats.frames import Frame, frame_at, stack_frames
from xmodal.store import FeatureInfo, Run
from xmodal.store.features import write_store
from xmodal.store.frames import frame_arrays, frame_info
from xmodal.values import Frames


def same(a: Frame | Frames, b: Frame | Frames) -> bool:
    for field in fields(a):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, LiftOperator):
            if not torch.equal(mine.to_dense(), theirs.to_dense()):
                return False
        elif isinstance(mine, torch.Tensor):
            if mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
                return False
        elif mine.hw != theirs.hw or not torch.equal(mine.T_world_cam, theirs.T_world_cam):
            return False
    return True


def info() -> FeatureInfo:
    return FeatureInfo(
        teacher="floor", space="unit", channels=CHANNELS, num_points=0, num_valid=0,
        fingerprint="f", cosine_error=0.0,
    )  # fmt: skip


def test_views_come_back_as_they_were() -> None:
    cloud = floor()
    views = [frame(cloud, above(0.7, 0.7)), frame(cloud, above(1.3, 0.9))]
    together = stack_frames(views)
    assert len(together) == 2
    assert together.offsets.tolist() == [0, GRID[0] * GRID[1], 2 * GRID[0] * GRID[1]]
    assert together.taps.shape == (2 * HW[0] * HW[1], 2 * GRID[0] * GRID[1])
    assert all(same(frame_at(together, index), view) for index, view in enumerate(views))


def test_views_of_different_sizes_stand_beside_each_other() -> None:
    large = frame(floor(), above(1, 1))
    small = Frame(
        rgb=torch.rand(3, 2, 3),
        depth_m=torch.ones(2, 3),
        inside=torch.ones(2, 3, dtype=torch.bool),
        camera=replace(above(1, 1), hw=(2, 3)),
        rows=torch.rand(1, CHANNELS),
        valid=torch.ones(1, dtype=torch.bool),
        weight=torch.ones(1),
        taps=LiftOperator.from_coo(
            torch.arange(6), torch.zeros(6, dtype=torch.int64), torch.ones(6), shape=(6, 1)
        ),
    )
    together = stack_frames([small, large, small])
    assert same(frame_at(together, 1), large)
    assert same(frame_at(together, 2), small)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_view_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError, match="of 4 frames"):
        frame_at(frames(floor()), index)


def test_nothing_to_stack() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        stack_frames([])


def test_widths_differ() -> None:
    one = frame(floor(), above(1, 1))
    with pytest.raises(ValueError, match=r"one width, got \[4, 5\]"):
        stack_frames([one, replace(one, rows=torch.zeros(len(one.rows), 5))])


def test_a_store_gives_the_same_frames(tmp_path: Path) -> None:
    kept, run = frames(floor()), Run(tmp_path)
    run.write_frames("frames", info(), kept)
    assert same(run.frames("frames"), kept)
    told = run.info("frames")
    assert (told.kind, told.num_points, told.num_sources) == ("frames", 192, 1728)


def test_frames_are_no_sets_and_no_points(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_frames("frames", info(), frames(floor()))
    with pytest.raises(DataError, match="a store of point_sets"):
        run.sets("frames")
    with pytest.raises(DataError, match="a store of points"):
        run.features("frames")


@pytest.mark.parametrize("name", ["rgb", "K", "col", "rows"])
def test_damage_is_seen(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path)
    run.write_frames("frames", info(), frames(floor()))
    file = tmp_path / "features" / "frames" / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=name):
        run.frames("frames")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("depth_m", lambda array: array[:5], "depth_m"),
        ("K", lambda array: array[:2], "K"),
        ("hw", lambda array: array - 1, "add up to the pixels"),
        ("col", lambda array: array + 100, "frames of 1728 pixels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, change: Callable[[Any], Any], told: str
) -> None:
    kept = frames(floor())
    arrays = frame_arrays(kept)
    arrays[name] = change(arrays[name])
    write_store(tmp_path / "features" / "frames", frame_info(info(), kept), {}, arrays)
    with pytest.raises(DataError, match=told):
        Run(tmp_path).frames("frames")


def test_rows_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    kept = frames(floor())
    bad = kept.rows.clone()
    bad[3, 0] = np.nan
    with pytest.raises(DataError, match="finite"):
        Run(tmp_path).write_frames("frames", info(), replace(kept, rows=bad))
