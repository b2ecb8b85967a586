"""Lists of splats per tile, against every pixel and every splat."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.gaussians.projection import Projected
from lifting.gaussians.reference import dense_alphas
from lifting.gaussians.tiles import TILE, Tiles, sort_by_depth, tile_lists


def ellipses(
    uv: list[tuple[float, float]], sigmas: list[tuple[float, float]], degrees: list[float]
) -> Projected:
    """Splats with these standard deviations along axes turned by `degrees`, one behind another."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).reshape(-1, 2, 2)
    inverse = torch.diag_embed(torch.tensor(sigmas, dtype=torch.float64) ** -2.0)
    conic = turn @ inverse @ turn.mT
    count = len(uv)
    return Projected(
        uv=torch.tensor(uv, dtype=torch.float64),
        conics=torch.stack((conic[:, 0, 0], conic[:, 0, 1], conic[:, 1, 1]), 1),
        depth_m=torch.arange(1, count + 1, dtype=torch.float64),
        extent_px=torch.ones(count, 2, dtype=torch.float64),
    )


def listed(tiles: Tiles) -> list[list[int]]:
    bounds = tiles.pointers.tolist()
    return [tiles.splats[a:b].tolist() for a, b in pairwise(bounds)]


def opaque(count: int, opacity: float = 1.0) -> Tensor:
    return torch.full((count,), opacity, dtype=torch.float64)


def test_small_splats_lie_in_the_tiles_that_they_touch() -> None:
    # sigma 1 and opacity 1 reach sqrt(2 ln 255) = 3.33 px.
    where = [(8.0, 8.0), (17.0, 8.0), (16.0, 16.0), (31.0, 40.0), (200.0, 8.0)]
    tiles = tile_lists(ellipses(where, [(1.0, 1.0)] * 5, [0.0] * 5), opaque(5), (48, 32))
    assert listed(tiles) == [[0, 1, 2], [1, 2], [2], [2], [], [3]]
    assert tiles.num_tiles == 6


def test_only_tiles_that_the_ellipse_itself_touches() -> None:
    """A thin diagonal: its box has all 16 tiles, the ellipse the diagonal ones and neighbours."""
    needle = ellipses([(32.0, 32.0)], [(9.0, 0.6)], [45.0])
    tiles = tile_lists(needle, opaque(1), (64, 64))
    touched = [t for t, splats in enumerate(listed(tiles)) if splats]
    assert set(touched) >= {0, 5, 10, 15}
    assert len(touched) <= 10
    assert not {3, 12, 2, 13} & set(touched)


def test_near_to_far_and_equal_depths_by_index() -> None:
    splats = ellipses([(8.0, 8.0)] * 5, [(1.0, 1.0)] * 5, [0.0] * 5)
    depth_m = torch.tensor([3.0, 1.0, 3.0, 0.5, 1.0], dtype=torch.float64)
    near_first = Projected(
        uv=splats.uv, conics=splats.conics, depth_m=depth_m, extent_px=splats.extent_px
    )
    assert listed(tile_lists(near_first, opaque(5), (16, 16))) == [[3, 1, 4, 0, 2]]


def test_what_is_not_drawn_or_too_faint_is_in_no_tile() -> None:
    splats = ellipses([(8.0, 8.0)] * 3, [(1.0, 1.0)] * 3, [0.0] * 3)
    splats.extent_px[1] = 0
    opacities = torch.tensor([1.0, 1.0, 0.9 / 255], dtype=torch.float64)
    # What is not drawn may hold anything.
    splats.conics[1] = -1
    splats.uv[2] = torch.nan
    assert listed(tile_lists(splats, opacities, (16, 16))) == [[0]]
    empty = Projected(
        uv=splats.uv[:0],
        conics=splats.conics[:0],
        depth_m=splats.depth_m[:0],
        extent_px=splats.extent_px[:0],
    )
    assert listed(tile_lists(empty, opaque(0), (20, 20))) == [[], [], [], []]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), single=st.booleans())
def test_no_pixel_is_lost(data: st.DataObject, single: bool) -> None:
    """Where any pixel of a tile has alpha of 1/255 or more, the tile lists the splat."""
    count, hw = 12, (37, 53)
    place = st.tuples(st.floats(-40, 90), st.floats(-40, 80))
    size = st.floats(math.log(0.2), math.log(60)).map(math.exp)
    draw = data.draw
    splats = ellipses(
        draw(st.lists(place, min_size=count, max_size=count)),
        draw(st.lists(st.tuples(size, size), min_size=count, max_size=count)),
        draw(st.lists(st.floats(0, 180), min_size=count, max_size=count)),
    )
    opacities = torch.linspace(0.004, 1, count, dtype=torch.float64)
    if single:
        parts = (splats.uv, splats.conics, splats.depth_m, splats.extent_px, opacities)
        uv, conics, depth_m, extent_px, opacities = (part.float() for part in parts)
        splats = Projected(uv=uv, conics=conics, depth_m=depth_m, extent_px=extent_px)
    pixel, splat = (dense_alphas(splats, opacities, hw) > 1.001 / 255).nonzero().unbind(1)
    across = -(-hw[1] // TILE)
    tile = pixel // hw[1] // TILE * across + pixel % hw[1] // TILE
    found = listed(tile_lists(splats, opacities, hw))
    for t, j in set(zip(tile.tolist(), splat.tolist(), strict=True)):
        assert j in found[t]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radix_sort_is_the_stable_sort(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(5000, generator=generator, dtype=dtype)
    depth = torch.cat(
        (depth, depth[:500], depth * 1e30, depth * 1e-30, torch.zeros(3, dtype=dtype))
    )
    level = torch.where(torch.rand(len(depth), generator=generator) < 0.7, 1.0, -1.0).to(dtype)
    bits = depth.view(torch.int32 if dtype == torch.float32 else torch.int64)
    order = np.empty(len(depth), np.int32)
    count = sort_by_depth(bits.numpy(), level.numpy(), order)
    kept = (level >= 0).nonzero().squeeze(1)
    wanted = kept[torch.argsort(depth[kept], stable=True)]
    assert torch.equal(torch.from_numpy(order[:count]).long(), wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uv", math.nan),
        ("uv", math.inf),
        ("conics", -1.0),
        ("conics", math.nan),
        ("conics", 0.0),
        ("depth_m", -1.0),
        ("depth_m", math.nan),
        ("opacities", 1.5),
    ],
)
def test_a_drawn_splat_must_be_an_ellipse(field: str, value: float) -> None:
    splats, opacities = ellipses([(8.0, 8.0)] * 2, [(1.0, 1.0)] * 2, [0.0] * 2), opaque(2)
    target = opacities if field == "opacities" else getattr(splats, field)
    target[1] = value
    with pytest.raises(ValueError, match="splat 1 has uv"):
        tile_lists(splats, opacities, (16, 16))
