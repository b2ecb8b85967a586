"""Lifting a teacher's 512-channel maps to 20k splats: the mean over several views.

Ours: `lift_splats` on compositing operators. Peer: gradient-weighted back-projection as it is
published: per view and chunk of 32 channels, render the splats' features and back-propagate the
teacher's map, brought up to the image, as the gradient of the picture; the same once more with one
channel of ones for the normaliser. The peer runs on the same compiled rasteriser, whose alphas it
evaluates anew forward and backward for each chunk, as published renderers do; their backward
kernels give the gradients of centres, conics and opacities along with those of features, asked for
or not. `ratio_features_only` is against a peer that leaves those out. Projection and the lists of
splats per tile the peer computes once a view. One thread on both sides. Charged on both sides:
projection, lists, alphas, and reading the map at every pixel; ours also finds how far views agree.
`error` is the largest difference of a number from the peer's, relative to the length of the row.

Predicted for one view of 160 x 120 with 700k weights and a map of 40 x 30 patches, before anything
was measured. Peer: 16 chunks x 2 passes, each one evaluation of alphas (40 ms, as our whole
operator) and 22M multiply-adds (15 ms): 1.8 s, and 0.1 s for bringing the map up. Ours: operator
40 ms, composition of 2.8M taps 20 ms, 180k x 512 multiply-adds twice 50 ms: 0.11 s; 17 times. All
of it was two times too slow, the ratio was about right. The peer's work is weights x channels, ours
is weights + (splat, patch) pairs x channels: more weights a pixel make it larger.

`ours_peak_mb_64` and `peer_peak_mb_64` are the extra memory at 64 channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, Number, interleave, main, peak_mb
from lifting.backends.jit import jit
from lifting.backends.numba_splats import decay
from lifting.cameras import Camera, pixel_centres
from lifting.gaussians.closed_form import SplatView, lift_splats
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.projection import LEAST_ALPHA, project_splats
from lifting.gaussians.reference import LEAST_TRANSMITTANCE, MOST_ALPHA
from lifting.gaussians.splats import Splats
from lifting.gaussians.tiles import TILE, Tiles, pixel_rows, tile_lists
from lifting.sampling import patch_taps

HW, GRID = (120, 160), (30, 40)
_CHUNK = 32
Array = NDArray[np.float32]
Lists = tuple[NDArray[np.int64], NDArray[np.int32]]


def build(*, num_splats: int, num_views: int, channels: int) -> Case:
    """A ball of splats, cameras around it, and random maps."""
    torch.set_num_threads(1)  # the peer's backward pass adds to the same rows from many pixels
    splats, cameras = ball(num_splats, scale_m=0.02, seed=0), ring(num_views)
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(math.prod(GRID), channels, generator=generator) for _ in cameras]
    out = torch.zeros(num_splats, channels)

    def ours() -> Tensor:
        return lift_splats(views(splats, cameras, maps), num_splats, out=out).rows

    def peer() -> Tensor:
        return back_project(splats, cameras, maps, out)

    def error() -> float:
        wanted = peer().clone()
        size = wanted.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return float(((ours() - wanted).abs() / size).max())

    def extra() -> dict[str, Number]:
        """The same against a peer whose backward kernel gives nothing but what is asked for."""
        ours_s, peer_s = interleave(
            ours, lambda: back_project(splats, cameras, maps, out, shapes=False), 2
        )
        return {"ratio_features_only": peer_s / ours_s}

    return Case(ours=ours, peer=peer, error=error, extra=extra)


def views(splats: Splats, cameras: list[Camera], maps: list[Tensor]) -> Any:
    """Views for `lift_splats`, each made when it is asked for."""
    for camera, rows in zip(cameras, maps, strict=True):
        projected = project_splats(splats, camera)
        taps = patch_taps(pixel_centres(HW), image_hw=HW, grid_hw=GRID)
        weights = compositing_operator(projected, splats.opacities, HW)
        yield SplatView(weights=weights, rows=rows, taps=taps)


def ball(num_splats: int, *, scale_m: float, seed: int) -> Splats:
    """Splats spread evenly in a ball of radius 1 m."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    radius = torch.rand(num_splats, 1, generator=generator) ** (1 / 3)
    return Splats(
        means=functional.normalize(normal(num_splats, 3), dim=1) * radius,
        quats=normal(num_splats, 4),
        scales=scale_m * torch.exp(0.5 * normal(num_splats, 3)),
        opacities=0.1 + 0.85 * torch.rand(num_splats, generator=generator),
    )


def ring(num_views: int, hw: tuple[int, int] = HW) -> list[Camera]:
    """Cameras around the ball, 3 m away, that see all of it."""
    cameras: list[Camera] = []
    focal = 1.06 * hw[1]
    K = torch.tensor([[focal, 0, hw[1] / 2], [0, focal, hw[0] / 2], [0, 0, 1]])
    for k in range(num_views):
        angle = 2 * math.pi * k / num_views
        # Up and down by turns, so that views are not all in one plane.
        height = 0.8 * math.sin(2.4 * k)
        centre = torch.tensor([3 * math.cos(angle), 3 * math.sin(angle), height])
        forward = functional.normalize(-centre, dim=0)
        right = functional.normalize(torch.linalg.cross(forward, torch.tensor([0, 0, 1.0])), dim=0)
        T_world_cam = torch.eye(4)
        axes = (right, torch.linalg.cross(forward, right), forward)
        T_world_cam[:3, :3], T_world_cam[:3, 3] = torch.stack(axes, 1), centre
        cameras.append(Camera(K=K, T_world_cam=T_world_cam, hw=hw))
    return cameras


# ---- the peer ----------------------------------------------------------------------------------


def back_project(
    splats: Splats,
    cameras: list[Camera],
    maps: list[Tensor],
    out: Tensor,
    *,
    shapes: bool = True,
) -> Tensor:
    """The mean lift by automatic differentiation of a renderer, 32 channels at a time.

    `shapes`: the backward kernel gives the gradients of centres, conics and opacities, too.
    """
    out.zero_()
    weight = torch.zeros(len(splats), 1)
    for camera, rows in zip(cameras, maps, strict=True):
        tiles = tile_lists(project_splats(splats, camera), splats.opacities, HW)
        weight += _gradient(tiles, torch.ones(math.prod(HW), 1), shapes=shapes)
        for begin in range(0, rows.shape[1], _CHUNK):
            part = rows[:, begin : begin + _CHUNK].T.reshape(1, -1, *GRID)
            picture = functional.interpolate(part, size=HW, mode="bilinear")
            chunk = picture.flatten(2)[0].T.contiguous()
            out[:, begin : begin + _CHUNK] += _gradient(tiles, chunk, shapes=shapes)
    return out.div_(weight.clamp_min(1e-30))


def _gradient(tiles: Tiles, picture: Tensor, *, shapes: bool) -> Tensor:
    """Gradient of <rendered features, picture> in the features."""
    features = torch.zeros(len(tiles.footprints), picture.shape[1], requires_grad=True)
    rendered: Tensor = _Render.apply(features, tiles, shapes)  # pyright: ignore[reportAssignmentType]
    (rendered * picture).sum().backward()
    assert features.grad is not None
    return features.grad


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, tiles: Tiles, shapes: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rendered = features.new_zeros(math.prod(tiles.hw), features.shape[1])
        _forward(*_arguments(tiles), features.detach().numpy(), rendered.numpy())
        ctx.save_for_backward(features, rendered)
        ctx.tiles, ctx.shapes = tiles, shapes
        return rendered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, rendered = ctx.saved_tensors
        found = torch.zeros_like(features)
        grad = grad.contiguous()
        arguments = (*_arguments(ctx.tiles), features.detach().numpy(), grad.numpy())
        if ctx.shapes:
            moments = grad.new_zeros(len(features), 6)
            behind = (rendered * grad).sum(1)
            _backward_all(*arguments, found.numpy(), behind.numpy(), moments.numpy())
        else:
            _backward(*arguments, found.numpy())
        return found, None, None


def _arguments(tiles: Tiles) -> tuple[Any, ...]:
    lists = tiles.pointers.numpy(), tiles.splats.numpy()
    return lists, tiles.footprints.numpy(), tiles.hw


_LEAST, _MOST = np.float32(LEAST_ALPHA), np.float32(MOST_ALPHA)
_DARKEST = np.float32(LEAST_TRANSMITTANCE)


@jit
def _tile(t: int, hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """First row and column, rows and columns of a tile."""
    tiles_x = (hw[1] + TILE - 1) // TILE
    y0, x0 = t // tiles_x * TILE, t % tiles_x * TILE
    return y0, x0, min(TILE, hw[0] - y0), min(TILE, hw[1] - x0)


@jit
def _alphas(
    splat: Array, box: tuple[int, int, int, int], light: Array, out: Array
) -> tuple[int, int, int]:
    """Weights of a splat in a tile: written to `out`, with alphas behind them; takes their light.

    Returns:
        Rows of the tile, from and to, and how many pixels have got all their light now.
    """
    y0, x0, rows, columns = box
    first, end = pixel_rows(splat, y0 + rows)
    first, end = max(first - y0, 0), end - y0
    u, v, k = splat[0] - np.float32(x0 + 0.5), splat[1] - np.float32(y0 + 0.5), splat[2]
    h, g, opacity = splat[3], splat[4], splat[5]
    for q in range(first * TILE, end * TILE):
        dy = np.float32(q >> 4) - v
        d = np.float32(q & 15) - u + k * dy
        # Far out alpha is nothing; the fast exponential must not overflow there.
        out[1, q] = opacity * decay(min(h * d * d + g * dy * dy, np.float32(80)))
    done = 0
    for r in range(first, end):
        for q in range(r * TILE, r * TILE + columns):
            alpha = min(out[1, q], _MOST)
            rest = light[q] * (np.float32(1) - alpha)
            out[0, q] = 0
            if alpha < _LEAST or light[q] == 0:
                continue
            if rest <= _DARKEST:
                light[q] = 0
                done += 1
                continue
            out[0, q] = alpha * light[q]
            light[q] = rest
    return first, end, done


@jit
def _forward(
    lists: Lists, footprints: Array, hw: tuple[int, int], features: Array, picture: Array
) -> None:
    """Composite features into a picture."""
    pointers, splats = lists
    weights, light = np.empty((2, TILE * TILE), np.float32), np.empty(TILE * TILE, np.float32)
    channels = features.shape[1]
    for t in range(len(pointers) - 1):
        box = _tile(t, hw)
        y0, x0, rows, columns = box
        light[:] = 1
        left = rows * columns
        for p in range(pointers[t], pointers[t + 1]):
            feature = features[splats[p]]
            first, end, done = _alphas(footprints[splats[p]], box, light, weights)
            left -= done
            for r in range(first, end):
                for i in range(columns):
                    w, pixel = weights[0, r * TILE + i], (y0 + r) * hw[1] + x0 + i
                    if w > 0:
                        for c in range(channels):
                            picture[pixel, c] += w * feature[c]
            if left == 0:
                break


@jit
def _backward(
    lists: Lists, footprints: Array, hw: tuple[int, int], features: Array, grad: Array, out: Array
) -> None:
    """Gradients of the features alone."""
    pointers, splats = lists
    weights, light = np.empty((2, TILE * TILE), np.float32), np.empty(TILE * TILE, np.float32)
    channels = features.shape[1]
    for t in range(len(pointers) - 1):
        box = _tile(t, hw)
        y0, x0, rows, columns = box
        light[:] = 1
        left = rows * columns
        for p in range(pointers[t], pointers[t + 1]):
            into = out[splats[p]]
            first, end, done = _alphas(footprints[splats[p]], box, light, weights)
            left -= done
            for r in range(first, end):
                for i in range(columns):
                    w, pixel = weights[0, r * TILE + i], (y0 + r) * hw[1] + x0 + i
                    if w > 0:
                        for c in range(channels):
                            into[c] += w * grad[pixel, c]
            if left == 0:
                break


@jit
def _backward_all(
    lists: Lists,
    footprints: Array,
    hw: tuple[int, int],
    features: Array,
    grad: Array,
    out: Array,
    behind: Array,
    moments: Array,
) -> None:
    """Gradients of the features, and the sums that those of centres, conics and opacities need."""
    pointers, splats = lists
    weights, light = np.empty((2, TILE * TILE), np.float32), np.empty(TILE * TILE, np.float32)
    channels = features.shape[1]
    for t in range(len(pointers) - 1):
        box = _tile(t, hw)
        y0, x0, rows, columns = box
        light[:] = 1
        left = rows * columns
        for p in range(pointers[t], pointers[t + 1]):
            j = splats[p]
            feature, into, total = features[j], out[j], moments[j]
            first, end, done = _alphas(footprints[j], box, light, weights)
            left -= done
            for r in range(first, end):
                for i in range(columns):
                    w, pixel = weights[0, r * TILE + i], (y0 + r) * hw[1] + x0 + i
                    if w > 0:
                        dot = np.float32(0)
                        for c in range(channels):
                            into[c] += w * grad[pixel, c]
                            dot += feature[c] * grad[pixel, c]
                        behind[pixel] -= w * dot
                        alpha = weights[1, r * TILE + i]
                        if alpha < _MOST:
                            s = w * dot - behind[pixel] * alpha / (np.float32(1) - alpha)
                            dx = np.float32(x0 + i + 0.5) - footprints[j, 0]
                            dy = np.float32(y0 + r + 0.5) - footprints[j, 1]
                            total[0] += s
                            total[1] += s * dx
                            total[2] += s * dy
                            total[3] += s * dx * dx
                            total[4] += s * dx * dy
                            total[5] += s * dy * dy
            if left == 0:
                break


_MAIN = {"num_splats": 20_000, "num_views": 4, "channels": 512}


def _narrow() -> dict[str, Number]:
    """Extra memory of both arms at 64 channels."""
    narrow = {**_MAIN, "channels": 64}
    arms = ("ours", "peer")
    return {f"{arm}_peak_mb_64": peak_mb("benchmarks.splat_lift", arm, narrow) for arm in arms}


BENCHMARK = Benchmark(
    name="splat_lift",
    build=build,
    settings={"": _MAIN},
    warm={"num_splats": 500, "num_views": 1, "channels": 32},
    extra=_narrow,
    note="20k splats, 4 views of 160 x 120, maps of 40 x 30 patches x 512",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
