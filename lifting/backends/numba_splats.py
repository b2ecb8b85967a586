"""Compositing splats on a CPU: lists of splats per tile, weights as CSR rows, and their gradients.

Each tile is a block of 16 x 16 pixels, so one row of it fills one vector register. A splat is
evaluated on those rows of a tile that its ellipse crosses, all 16 pixels at once; what it adds to
a pixel goes to a list of the tile, and the lists are sorted into the rows of the matrix at last.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import even_bounds, jit, run_ranges
from lifting.gaussians.projection import LEAST_ALPHA
from lifting.gaussians.reference import LEAST_TRANSMITTANCE, MOST_ALPHA
from lifting.gaussians.tiles import SLACK, TILE, Tiles, pixel_rows

_PIXELS = TILE * TILE
# exp(-80) is nothing beside any alpha, and still a number in float32.
_VANISHED = 80.0

Array = NDArray[Any]


_PER_OCTAVE = np.float32(-1 / np.log(2))
# log(2) in two parts, the first with few digits: its product with a small integer is exact.
_HIGH, _LOW = np.float32(0.693145751953125), np.float32(np.log(2) - 0.693145751953125)
# Adding it rounds to an integer, which the lowest bits then hold.
_MAGIC = np.float32(1.5 * 2**23)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / f) for f in (2, 6, 24, 120, 720))


def decay(exponent: Any) -> Any:
    """exp(-exponent). In float32 kernels it is a polynomial, exact to 3e-7, that vectorises."""
    return np.exp(-exponent)


def _decay_single(exponent: Any) -> Any:
    shifted = np.float32(exponent * _PER_OCTAVE + _MAGIC)
    octaves = shifted - _MAGIC
    rest = -exponent - octaves * _HIGH - octaves * _LOW
    power = ((((_C6 * rest + _C5) * rest + _C4) * rest + _C3) * rest + _C2) * rest * rest
    scale = np.int32((shifted.view(np.int32) + np.int32(127)) << np.int32(23))
    return (power + rest + np.float32(1)) * scale.view(np.float32)


def _decay_double(exponent: Any) -> Any:
    return np.exp(-exponent)


def _decay_of(exponent: Any) -> Any:
    """The code for a type. A runtime type checker may have wrapped it; numba needs the bare one."""
    return inspect.unwrap(_decay_single if exponent == types.float32 else _decay_double)


# Not reordered like other kernels: `shifted - _MAGIC` would be folded to what was rounded.
_overload: Any = overload(decay, jit_options={"fastmath": {"contract"}})
_overload(inspect.unwrap(_decay_of))


@jit
def block_alphas(splat: Array, x: float, y: float, rows: tuple[int, int], alphas: Array) -> None:
    """Alphas, not capped, in rows `rows` of the tile whose first pixel has its centre at x, y."""
    # One loop over all pixels: were its length known, it would be unrolled instead of vectorised.
    kind = alphas.dtype.type
    most = kind(_VANISHED)
    u, v, k = splat[0] - kind(x), splat[1] - kind(y), splat[2]
    h, g, opacity = splat[3], splat[4], splat[5]
    for q in range(rows[0] * TILE, rows[1] * TILE):
        dy = kind(q >> 4) - v
        d = kind(q & 15) - u + k * dy
        alphas[q] = opacity * decay(min(h * d * d + g * dy * dy, most))


@jit
def row_span(splat: Array, x: float, dy: Any, columns: int) -> tuple[int, int]:
    """Pixels, from and to, of a row at height `dy` from the centre that the ellipse reaches."""
    room = splat[6] - splat[4] * dy * dy
    if room < 0:
        return 0, 0
    half = np.sqrt(room / splat[3]) + SLACK
    centre = splat[0] - splat[2] * dy - x
    if centre + half < 0 or centre - half > columns:
        return 0, 0
    return int(max(np.ceil(centre - half), 0.0)), int(min(centre + half, columns - 1.0)) + 1


@jit
def _add_splat(
    span: tuple[int, int],
    row: int,
    splat: int,
    limits: tuple[Any, Any, Any],
    alphas: Array,
    state: tuple[Array, NDArray[np.int64], NDArray[np.int64]],
    lists: tuple[NDArray[np.uint8], NDArray[np.int32], Array],
    n: int,
) -> int:
    """Composite a splat into the pixels `span` of a row of a tile; returns the lists' new end."""
    least, most, darkest = limits
    light, count, lit = state
    pixel, index, alpha = lists
    one = alphas.dtype.type(1)
    for q in range(row * TILE + span[0], row * TILE + span[1]):
        al = min(alphas[q], most)
        rest = light[q] * (one - al)
        if al < least:
            continue
        if rest > darkest:
            light[q] = rest
            count[q] += 1
            pixel[n], index[n], alpha[n] = q, splat, al
            n += 1
        elif light[q] > 0:
            light[q] = 0
            lit[row] -= 1
    return n


@jit
def _longer(values: Array, used: int) -> Array:
    """A copy with twice the room; memory that was never written is not touched."""
    longer = np.empty(2 * len(values), values.dtype)
    longer[:used] = values[:used]
    return longer


@jit
def _composite_tile(
    splats: NDArray[np.int32],
    footprint: Array,
    box: tuple[int, int, int, int],
    limits: tuple[Any, Any, Any],
    state: tuple[Array, NDArray[np.int64], NDArray[np.int64]],
    lists: tuple[NDArray[np.uint8], NDArray[np.int32], Array],
    n: int,
) -> tuple[tuple[NDArray[np.uint8], NDArray[np.int32], Array], int]:
    """Composite a tile's splats near to far; returns the lists, maybe grown, and their end.

    Args:
        splats: The tile's splats.
        footprint: See `footprint_rows`.
        box: First column and row, width and height of the tile, pixels.
        limits: Least and most alpha, least transmittance.
        state: Written: light and entries of each pixel, pixels in each row that still get light.
        lists: Pixel of the tile, splat and alpha of each entry.
        n: End of the lists so far.
    """
    x0, y0, columns, rows = box
    alphas = np.empty(_PIXELS, footprint.dtype)
    state[0][:], state[1][:], state[2][:] = 1, 0, columns
    for j in splats:
        here = footprint[j]
        if n + _PIXELS > len(lists[0]):
            pixel, index, alpha = lists
            lists = _longer(pixel, n), _longer(index, n), _longer(alpha, n)
        first, end = pixel_rows(here, y0 + rows)
        first = max(first - y0, 0)
        block_alphas(here, x0 + 0.5, y0 + 0.5, (first, end - y0), alphas)
        for row in range(first, end - y0):
            if state[2][row] > 0:
                dy = alphas.dtype.type(y0 + row + 0.5) - here[1]
                span = row_span(here, x0 + 0.5, dy, columns)
                n = _add_splat(span, row, j, limits, alphas, state, lists, n)
        if not state[2][:rows].any():
            break
    return lists, n


@jit
def composite(
    tiles: tuple[NDArray[np.int64], NDArray[np.int32]],
    footprint: Array,
    hw: tuple[int, int],
    limits: Array,
    counts: NDArray[np.int64],
    begin: int,
    end: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int32], Array, NDArray[np.int64]]:
    """Alphas of tiles `begin` to `end`: lists of (pixel of the tile, splat, alpha), near to far.

    Args:
        tiles: Pointers and lists of `bin_tiles`.
        footprint: See `footprint_rows`.
        hw: Height and width of the image.
        limits: Least and most alpha, least transmittance.
        counts: Written for the pixels of these tiles: their number of entries.
        begin: First tile.
        end: Tile after the last.

    Returns:
        The three columns of the lists, and where the list of each tile ends.
    """
    pointers, splats = tiles
    height, width = hw
    tiles_x = (width + TILE - 1) // TILE
    state = np.empty(_PIXELS, footprint.dtype), np.empty(_PIXELS, np.int64), np.empty(16, np.int64)
    # Room that is not used costs nothing; small splats have about 20 pixels in a tile.
    room = 4096 + 32 * (pointers[end] - pointers[begin])
    lists = np.empty(room, np.uint8), np.empty(room, np.int32), np.empty(room, footprint.dtype)
    ends = np.empty(end - begin, np.int64)
    n = 0
    for t in range(begin, end):
        y0, x0 = t // tiles_x * TILE, t % tiles_x * TILE
        box = x0, y0, min(TILE, width - x0), min(TILE, height - y0)
        here = splats[pointers[t] : pointers[t + 1]]
        bounds = limits[0], limits[1], limits[2]
        lists, n = _composite_tile(here, footprint, box, bounds, state, lists, n)
        ends[t - begin] = n
        for r in range(box[3]):
            for i in range(box[2]):
                counts[(y0 + r) * width + x0 + i] = state[1][r * TILE + i]
    return lists[0][:n], lists[1][:n], lists[2][:n], ends


@jit
def scatter(
    part: tuple[NDArray[np.uint8], NDArray[np.int32], Array, NDArray[np.int64]],
    hw: tuple[int, int],
    crow: NDArray[np.int64],
    out: tuple[NDArray[np.int64], Array, Array],
    begin: int,
    end: int,
) -> None:
    """Write the lists of tiles `begin` to `end` as CSR rows: columns, weights and alphas.

    Args:
        part: What `composite` gave for these tiles.
        hw: Height and width of the image.
        crow: Row pointers.
        out: Columns, weights and alphas; alphas may be empty, they are then not wanted.
        begin: First tile.
        end: Tile after the last.
    """
    pixel, splat, alpha, ends = part
    col, weight, alphas = out
    height, width = hw
    tiles_x = (width + TILE - 1) // TILE
    cursor = np.empty(_PIXELS, np.int64)
    light = np.empty(_PIXELS, weight.dtype)
    one = weight.dtype.type(1)
    keep = len(alphas) > 0
    n = 0
    for t in range(begin, end):
        y0, x0 = t // tiles_x * TILE, t % tiles_x * TILE
        light[:] = 1
        for r in range(min(TILE, height - y0)):
            for i in range(min(TILE, width - x0)):
                cursor[r * TILE + i] = crow[(y0 + r) * width + x0 + i]
        while n < ends[t - begin]:
            q = pixel[n]
            place = cursor[q]
            cursor[q] = place + 1
            col[place] = splat[n]
            w = alpha[n] * light[q]
            weight[place] = w
            light[q] *= one - alpha[n]
            if keep:
                alphas[place] = alpha[n]
            n += 1


@jit
def add_moments(
    pattern: tuple[NDArray[np.int64], NDArray[np.int64]],
    entries: tuple[Array, Array, Array],
    uv: Array,
    limits: tuple[int, float],
    bounds: NDArray[np.int64],
    out: Array,
    first: int,
    last: int,
) -> None:
    """Per splat, sums over its pixels of the gradient s of its exponent: s (1, x, y, xx, xy, yy).

    With T the light in front, w = alpha T and dL/dalpha = T g - (sum of g w behind) / (1 - alpha).

    Args:
        pattern: Row pointers and columns.
        entries: Weights, alphas, and the gradient g of the weights.
        uv: Centres; x and y are relative to them.
        limits: Pixels in a row of the image, and the cap of alpha; capped alphas have no gradient.
        bounds: Pixels of the pieces.
        out: Added to, [pieces, M, 8]; the last two stay unused, so that a splat fills 32 bytes.
        first: First piece.
        last: Piece after the last.
    """
    crow, col = pattern
    weight, alpha, grad = entries
    width, most = limits
    half, one = out.dtype.type(0.5), out.dtype.type(1)
    for piece in range(first, last):
        total = out[piece]
        for i in range(bounds[piece], bounds[piece + 1]):
            x, y = out.dtype.type(i % width) + half, out.dtype.type(i // width) + half
            behind = out.dtype.type(0)
            for p in range(crow[i + 1] - 1, crow[i] - 1, -1):
                j, al, w, g = col[p], alpha[p], weight[p], grad[p]
                if al < most:
                    dx, dy = x - uv[j, 0], y - uv[j, 1]
                    s = w * g - behind * al / (one - al)
                    total[j, 0] += s
                    total[j, 1] += s * dx
                    total[j, 2] += s * dy
                    total[j, 3] += s * dx * dx
                    total[j, 4] += s * dx * dy
                    total[j, 5] += s * dy * dy
                behind += g * w


def view_weights(
    tiles: Tiles, *, keep_alphas: bool
) -> tuple[Int64[Tensor, " P1"], Int64[Tensor, " nnz"], Float[Tensor, " nnz"], Float[Tensor, " A"]]:
    """Compositing weights of all pixels.

    Args:
        tiles: The splats of each tile.
        keep_alphas: Whether the alphas are wanted, too; gradients need them.

    Returns:
        Row pointers (one row per pixel), columns (splats, near to far), weights, and the alphas or
        nothing.
    """
    footprints, hw = tiles.footprints.numpy(), tiles.hw
    lists = tiles.pointers.numpy(), tiles.splats.numpy()
    crow = np.zeros(hw[0] * hw[1] + 1, np.int64)
    parts: dict[int, Any] = {}

    def evaluate(begin: int, end: int) -> None:
        limits = np.array((LEAST_ALPHA, MOST_ALPHA, LEAST_TRANSMITTANCE), footprints.dtype)
        parts[begin] = composite(lists, footprints, hw, limits, crow[1:], begin, end)

    bounds = even_bounds(tiles.num_tiles, _PIXELS * tiles.splats.numel())
    run_ranges(evaluate, bounds)
    np.cumsum(crow, out=crow)
    col, weight = np.empty(crow[-1], np.int64), np.empty(crow[-1], footprints.dtype)
    alpha = np.empty(crow[-1] if keep_alphas else 0, footprints.dtype)

    def place(begin: int, end: int) -> None:
        scatter(parts.pop(begin), hw, crow, (col, weight, alpha), begin, end)

    run_ranges(place, bounds)
    tensors = [torch.from_numpy(part) for part in (crow, col, weight, alpha)]
    return tensors[0], tensors[1], tensors[2], tensors[3]


def splat_gradients(
    pattern: tuple[Int64[Tensor, " P1"], Int64[Tensor, " nnz"]],
    entries: tuple[Float[Tensor, " nnz"], Float[Tensor, " nnz"], Float[Tensor, " nnz"]],
    splats: tuple[Float[Tensor, "M 2"], Float[Tensor, "M 3"], Float[Tensor, " M"]],
    width: int,
) -> tuple[Float[Tensor, "M 2"], Float[Tensor, "M 3"], Float[Tensor, " M"]]:
    """Gradients of centres, conics and opacities from those of the weights.

    The result does not depend on the number of threads.

    Args:
        pattern: Row pointers and columns.
        entries: Weights, alphas, and the gradient of the weights.
        splats: Centres, conics and opacities.
        width: Pixels in a row of the image.
    """
    uv, conics, opacities = splats
    crow, col = pattern
    num_pixels, nnz = crow.numel() - 1, col.numel()
    # Sums of their own for each piece, added in order: threads never write to the same splat, and
    # how many pieces there are depends on the work alone. They take less memory than the entries.
    pieces = min(8, max(1, nnz // max(1, 8 * len(uv))))
    moments = uv.new_zeros(pieces, len(uv), 8)
    # Equal shares of the entries, not of the pixels: the sky has none.
    shares = torch.arange(1, pieces) * (nnz // pieces)
    bounds = torch.zeros(pieces + 1, dtype=torch.int64)
    bounds[1:-1], bounds[-1] = torch.searchsorted(crow, shares), num_pixels
    run_ranges(
        add_moments,
        list(range(pieces + 1)),
        tuple(part.numpy() for part in pattern),
        tuple(part.detach().contiguous().numpy() for part in entries),
        uv.detach().contiguous().numpy(),
        (width, uv.new_tensor(MOST_ALPHA).item()),
        bounds.numpy(),
        moments.numpy(),
    )
    s, sx, sy, sxx, sxy, syy, _, _ = moments.sum(0).unbind(1)
    a, b, c = conics.unbind(1)
    opaque = opacities > 0
    return (
        torch.stack((a * sx + b * sy, b * sx + c * sy), 1),
        torch.stack((-0.5 * sxx, -sxy, -0.5 * syy), 1),
        torch.where(opaque, s / opacities.where(opaque, torch.ones_like(s)), 0.0),
    )
