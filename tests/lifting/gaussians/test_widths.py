"""Rows of any width: as brute force has them, compiled once, without memory of their own."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lifting.backends
from lifting.cameras import Camera, pixel_centres
from lifting.gaussians.closed_form import SplatView, Tikhonov, lift_splats
from lifting.gaussians.projection import project_splats
from lifting.gaussians.reference import dense_weights
from lifting.gaussians.rendering import render_rows, view_operator
from lifting.gaussians.splats import Splats
from lifting.sampling import patch_taps

WIDTHS = [1, 3, 37, 512, 1000]
HW, GRID, COUNT = (18, 24), (3, 4), 60


def cameras() -> list[Camera]:
    K = torch.tensor([[25.0, 0, 12], [0, 25.0, 9], [0, 0, 1]])
    found: list[Camera] = []
    for x in (-0.2, 0.0, 0.3):
        T_world_cam = torch.eye(4)
        T_world_cam[0, 3] = x
        found.append(Camera(K=K, T_world_cam=T_world_cam, hw=HW))
    return found


def scene() -> Splats:
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(COUNT, 3, generator=generator) * torch.tensor([1.6, 1.2, 1.0])
    return Splats(
        means=means + torch.tensor([-0.8, -0.6, 1.5]),
        quats=torch.randn(COUNT, 4, generator=generator),
        scales=0.02 + 0.1 * torch.rand(COUNT, 3, generator=generator),
        opacities=0.1 + 0.8 * torch.rand(COUNT, generator=generator),
    )


def rows_of(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def dense(camera: Camera) -> Tensor:
    """Compositing weights by brute force, float64."""
    splats = scene().to(dtype=torch.float64)
    return dense_weights(project_splats(splats, camera), splats.opacities, HW)


def taps() -> Tensor:
    return patch_taps(pixel_centres(HW), image_hw=HW, grid_hw=GRID).to_dense().double()


def seen(channels: int) -> list[SplatView]:
    return [
        SplatView(
            weights=view_operator(scene(), camera),
            rows=rows_of(GRID[0] * GRID[1], channels, seed),
            taps=patch_taps(pixel_centres(HW), image_hw=HW, grid_hw=GRID),
        )
        for seed, camera in enumerate(cameras())
    ]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("channels", WIDTHS)
def test_drawing_is_the_product_by_brute_force(channels: int) -> None:
    camera, rows = cameras()[0], rows_of(COUNT, channels)
    wanted = dense(camera) @ rows.double()
    drawn = render_rows(scene(), camera, rows)
    close(drawn.rows.reshape(-1, channels), wanted)
    W = view_operator(scene(), camera)
    close(W.apply(rows), wanted)
    pixels = rows_of(HW[0] * HW[1], channels, 1)
    close(W.adjoint(pixels), dense(camera).T @ pixels.double())
    behind = torch.linspace(-1, 1, channels)
    over = render_rows(scene(), camera, rows, background=behind)
    close(over.rows, drawn.rows + (1 - drawn.alpha)[..., None] * behind)


@pytest.mark.parametrize("channels", WIDTHS)
def test_lifting_is_what_brute_force_gives(channels: int) -> None:
    W = torch.cat([dense(camera) for camera in cameras()])
    f = torch.cat([taps() @ view.rows.double() for view in seen(channels)])
    weight = W.sum(0)
    mean = W.T @ f / weight[:, None]
    found = lift_splats(seen(channels), COUNT)
    close(found.weight, weight)
    close(found.rows[found.valid], mean[found.valid])
    ridge = 1.0
    matrix = W.T @ W + ridge * torch.eye(COUNT, dtype=torch.float64)
    start = torch.where(found.valid[:, None], mean, torch.zeros_like(mean))
    wanted = torch.linalg.solve(matrix, W.T @ f + ridge * start)
    exact = Tikhonov(ridge=ridge, tolerance=1e-6)
    solved = lift_splats(seen(channels), COUNT, how="solve", solve=exact)
    close(solved.rows[solved.valid], wanted[solved.valid])


@pytest.mark.parametrize("channels", WIDTHS)
def test_the_robust_lift_judges_rows_of_any_width(channels: int) -> None:
    """A row repeated to another width is the same row for cosines: the weights stay."""
    narrow = seen(1)
    wide = [
        SplatView(weights=v.weights, rows=v.rows.repeat(1, channels), taps=v.taps) for v in narrow
    ]
    one = lift_splats(narrow, COUNT, how="robust")
    many = lift_splats(wide, COUNT, how="robust")
    close(many.rows, one.rows.repeat(1, channels))
    close(many.weight, one.weight)


def compiled() -> dict[str, int]:
    """How many signatures every kernel was compiled for."""
    found: dict[str, int] = {}
    for about in pkgutil.iter_modules(lifting.backends.__path__):
        if about.name.startswith("numba_"):
            module = importlib.import_module(f"lifting.backends.{about.name}")
            for name, part in vars(module).items():
                if hasattr(part, "signatures"):
                    found[f"{about.name}.{name}"] = len(part.signatures)
    return found


def all_operators(channels: int) -> None:
    rows = rows_of(COUNT, channels).requires_grad_()
    render_rows(scene(), cameras()[0], rows).rows.sum().backward()
    view_operator(scene(), cameras()[0]).adjoint(rows_of(HW[0] * HW[1], channels))
    for how in ("mean", "robust", "solve"):
        lift_splats(seen(channels), COUNT, how=how)


def test_no_width_is_compiled_in() -> None:
    all_operators(2)
    before = compiled()
    assert len(before) > 10
    for channels in WIDTHS:
        all_operators(channels)
    assert compiled() == before


def test_another_width_is_an_error() -> None:
    camera, views = cameras()[0], seen(5)
    with pytest.raises(ValueError, match=f"{COUNT} splats need rows"):
        render_rows(scene(), camera, rows_of(COUNT + 1, 5))
    with pytest.raises(ValueError, match="rows of width 5 needs that width"):
        render_rows(scene(), camera, rows_of(COUNT, 5), background=torch.zeros(4))
    with pytest.raises(ValueError, match="must have 5 channels"):
        lift_splats([*views[:2], seen(4)[2]], COUNT)
    with pytest.raises(ValueError, match="needs `out`"):
        lift_splats(views, COUNT, out=torch.zeros(COUNT, 6))


MEASURE = """
import gc
import torch
from lifting.cameras import Camera, pixel_centres
from lifting.gaussians.closed_form import SplatView, Tikhonov, lift_splats
from lifting.gaussians.rendering import render_rows, view_operator
from lifting.gaussians.splats import Splats
from lifting.sampling import patch_taps

hw, grid, count = (120, 160), (12, 16), 4000
K = torch.tensor([[150.0, 0, 80], [0, 150.0, 60], [0, 0, 1]])
camera = Camera(K=K, T_world_cam=torch.eye(4), hw=hw)
chance = torch.Generator().manual_seed(0)
means = torch.rand(count, 3, generator=chance) * 2 - 1
means[:, 2] += 3
splats = Splats(
    means=means,
    quats=torch.randn(count, 4, generator=chance),
    scales=torch.full((count, 3), 0.03),
    opacities=torch.full((count,), 0.7),
)


def views(width):
    for seed in range(3):
        rows = torch.full((grid[0] * grid[1], width), float(seed))
        taps = patch_taps(pixel_centres(hw), image_hw=hw, grid_hw=grid)
        yield SplatView(weights=view_operator(splats, camera), rows=rows, taps=taps)


class Views:
    def __init__(self, width):
        self.width = width

    def __iter__(self):
        return views(self.width)


def run(what, rows, out):
    if what == "render":
        return render_rows(splats, camera, rows).rows
    solve = Tikhonov(max_iterations=3) if what == "solve" else None
    return lift_splats(Views(rows.shape[1]), count, how=what, solve=solve, out=out).rows


def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if name in line)


def beyond(what, channels):
    # Ones: pages of zeros are only taken when they are written.
    rows, out = torch.ones(count, channels), torch.ones(count, channels)
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = kilobytes("VmRSS")
    made = run(what, rows, out)
    given = made.numel() * 4 if what == "render" else 0
    return kilobytes("VmHWM") - before - given // 1024


for what in ("render", "mean", "solve"):
    beyond(what, 8)
    print(what, beyond(what, 32), beyond(what, 1000))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory peaks: Linux")
def test_memory_beyond_the_result_does_not_grow_with_the_width() -> None:
    """One row a pixel of 1000 channels would be 77 MB more than of 32; one a splat 16 MB."""
    command = [sys.executable, "-c", MEASURE]
    # Freed arrays go back at once: what the allocator keeps for later is no use of memory.
    surroundings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        what, narrow, wide = line.split()
        assert int(wide) - int(narrow) < 12_000, what
    assert len(done.stdout.splitlines()) == 3
