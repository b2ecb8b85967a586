"""What is around a place: depth, class and colour panoramas, a floor plan, and voxels.

Panoramas are equirectangular. Rows go from straight up to straight down, columns from behind over
the left, ahead (the middle) and the right to behind again; a ray goes through the middle of a cell.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray

from xmodal.rooms.layout import CLASSES, Listener, Reals, Room, solid, turn

# One paint for each class, and where the light comes from.
_PAINTS = np.array(
    [(128, 128, 128), (214, 206, 190), (150, 110, 74), (240, 240, 236), (96, 112, 150),
     (130, 90, 60), (176, 134, 90), (150, 190, 220), (190, 90, 90), (170, 170, 176)],
    dtype=np.float64,
)  # fmt: skip
_SHADES = np.array([0.82, 0.70, 1.0])
# Of light at the head, one metre away; it falls off gently so that far walls stay visible.
_FALL_M = 6.0


def directions(hw: tuple[int, int]) -> Float[Reals, "N 3"]:
    """Unit rays of a panorama in the listener's axes, row by row.

    Args:
        hw: Rows and columns.
    """
    rows: Reals = np.pi / 2 - (np.arange(hw[0]) + 0.5) / hw[0] * np.pi
    columns: Reals = np.pi - (np.arange(hw[1]) + 0.5) / hw[1] * 2 * np.pi
    up, left = np.repeat(rows, hw[1]), np.tile(columns, hw[0])
    rays = np.empty((hw[0] * hw[1], 3))
    rays[:, 0], rays[:, 1] = np.cos(up) * np.cos(left), np.cos(up) * np.sin(left)
    rays[:, 2] = np.sin(up)
    return rays


def cast(
    room: Room, start: Float[Reals, " 3"], rays: Float[Reals, "N 3"]
) -> tuple[Float[Reals, " N"], Int[NDArray[np.int64], " N"], Int[NDArray[np.int64], " N"]]:
    """How far each ray goes, what it meets, and the axis that the met surface faces.

    Args:
        room: The room.
        start: Where all rays begin: inside the room, outside furniture.
        rays: Unit directions in the room's frame.

    Returns:
        Metres, numbers in `CLASSES`, and axes (0 x, 1 y, 2 z).
    """
    with np.errstate(divide="ignore"):
        inverse = 1.0 / rays
    leave = np.maximum(-start * inverse, (np.array(room.size_m) - start) * inverse)
    leave[np.isnan(leave)] = np.inf
    axis = leave.argmin(axis=1)
    far = leave.min(axis=1)
    wall, floor, ceiling = (CLASSES.index(name) for name in ("wall", "floor", "ceiling"))
    kind = np.where(axis < 2, wall, np.where(rays[:, 2] < 0, floor, ceiling))
    for box in room.boxes:
        with np.errstate(invalid="ignore"):
            one, other = (
                (np.array(box.low) - start) * inverse,
                (np.array(box.high) - start) * inverse,
            )
        enter = np.fmin(one, other)
        inside = enter.max(axis=1), np.fmax(one, other).min(axis=1)
        hit = (inside[0] > 0) & (inside[0] < inside[1]) & (inside[0] < far)
        far = np.where(hit, inside[0], far)
        axis = np.where(hit, enter.argmax(axis=1), axis)
        kind = np.where(hit, CLASSES.index(box.class_name), kind)
    return far, kind.astype(np.int64), axis.astype(np.int64)


def panorama(
    room: Room, listener: Listener, hw: tuple[int, int]
) -> tuple[Float[Reals, "H W"], UInt8[NDArray[np.uint8], "H W"]]:
    """Distance along each ray, metres, and the class that it meets.

    Args:
        room: The room.
        listener: Where it is seen from.
        hw: Rows and columns.
    """
    rays = directions(hw) @ turn(listener.heading_rad).T
    far, kind, _ = cast(room, np.array(listener.xyz), rays)
    return far.reshape(hw), kind.astype(np.uint8).reshape(hw)


def painted(
    room: Room, listener: Listener, hw: tuple[int, int]
) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """The panorama in plain paints, lit from the head.

    Args:
        room: The room.
        listener: Where it is seen from.
        hw: Rows and columns.
    """
    rays = directions(hw) @ turn(listener.heading_rad).T
    far, kind, axis = cast(room, np.array(listener.xyz), rays)
    light = _SHADES[axis] / (1 + far / _FALL_M)
    return (_PAINTS[kind] * light[:, None]).clip(0, 255).astype(np.uint8).reshape(*hw, 3)


def floor_plan(
    room: Room, listener: Listener, cells: int, cell_m: float
) -> Bool[NDArray[np.bool_], "H W"]:
    """Where one cannot stand, seen from above with the listener in the middle looking up the page.

    Args:
        room: The room.
        listener: Who stands in the middle.
        cells: Cells along each side.
        cell_m: Side of a cell, metres. A cell is what its middle is.
    """
    return solid(room, _around(listener, cells, cell_m)).reshape(cells, cells)


def volume(
    room: Room, listener: Listener, cells: int, slices: int, voxel_m: float
) -> Bool[NDArray[np.bool_], "S H W"]:
    """Which voxels hold something, slice by slice from the floor up, each as a floor plan lies.

    Args:
        room: The room.
        listener: Who stands in the middle.
        cells: Voxels along each horizontal side.
        slices: Voxels from the floor up.
        voxel_m: Side of a voxel, metres. One that any furniture reaches into is occupied, so that
            table tops are; so is one whose middle lies beyond walls or ceiling.
    """
    xy = _around(listener, cells, voxel_m)
    z = (np.arange(slices) + 0.5) * voxel_m
    middles = np.concatenate([np.tile(xy, (slices, 1)), np.repeat(z, len(xy))[:, None]], axis=1)
    held = (middles < 0).any(axis=1) | (middles > np.array(room.size_m)).any(axis=1)
    # Heads turn by quarters, so sides of voxels lie along walls. What only touches does not count.
    half = voxel_m / 2 - 1e-9
    for box in room.boxes:
        low, high = np.array(box.low) - half, np.array(box.high) + half
        held |= ((middles > low) & (middles < high)).all(axis=1)
    return held.reshape(slices, cells, cells)


def _around(listener: Listener, cells: int, cell_m: float) -> Float[Reals, "N 2"]:
    """Middles of square cells in the room's frame, row by row, looking up the page."""
    along = (cells / 2 - np.arange(cells) - 0.5) * cell_m
    ahead, left = np.meshgrid(along, along, indexing="ij")
    here = np.stack([ahead.ravel(), left.ravel()], axis=1)
    return here @ turn(listener.heading_rad)[:2, :2].T + np.array(listener.xyz[:2])
