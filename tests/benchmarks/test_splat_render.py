"""Both arms of the rendering benchmark draw what brute force draws."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import splat_render
from lifting.gaussians.projection import project_splats
from lifting.gaussians.reference import dense_weights


def test_the_peer_draws_what_brute_force_draws():
    splats, camera = splat_render.make_view(300, 2.0)
    projected = project_splats(splats, camera)
    rows = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    wanted = dense_weights(projected, splats.opacities, camera.hw) @ rows
    draw = partial(splat_render.peer_render, projected, splats.opacities, rows, camera.hw)
    for clipped in (False, True):
        torch.testing.assert_close(draw(clipped=clipped), wanted, rtol=1e-4, atol=1e-4)


def test_arms_agree_and_what_is_compared_is_counted():
    case = splat_render.build(num_splats=200, channels=33, size_px=1.0)
    assert case.error() < 1e-5
    figures = case.extra()
    assert 0 < figures["intersections"] < figures["entries"]
    assert figures["ratio_clipped"] > 0


def test_all_splats_are_in_the_picture():
    splats, camera = splat_render.make_view(500, 1.0)
    assert int(project_splats(splats, camera).drawn.sum()) > 495


def test_without_data_there_is_no_garden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert splat_render.garden() == {}
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    assert splat_render.garden() == {}


def test_a_garden_is_seen_from_its_cameras(tmp_path: Path):
    generator = np.random.default_rng(0)
    K = np.array([[480.0, 0, 320], [0, 480, 210], [0, 0, 1]], np.float32)
    moved = np.eye(4, dtype=np.float32)
    moved[2, 3] = 4
    np.savez(
        tmp_path / "g.npz",
        means3d=generator.normal(size=(60, 3)).astype(np.float32),
        viewmats=moved[None],
        Ks=K[None],
        height=420,
        width=640,
    )
    splats, camera = splat_render.garden_view(tmp_path / "g.npz")
    assert camera.hw == (210, 320)
    assert camera.K.tolist() == [[240, 0, 160], [0, 240, 105], [0, 0, 1]]
    assert camera.centre.tolist() == [0, 0, -4]
    assert int(project_splats(splats, camera).drawn.sum()) > 50
    with pytest.raises(IndexError):
        splat_render.garden_view(tmp_path / "g.npz", view=1)
