"""Rooms as boxes: walls, furniture, and where somebody stands.

The frame of a room has its origin in a corner of the floor, x and y along walls and z up; metres.
Everything is a box along these axes, so that rays, echoes and floor plans follow by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Xyz = tuple[float, float, float]

# The classes that the published benchmark merges Matterport's into, in its order.
CLASSES = (
    "other", "wall", "floor", "ceiling", "seat", "door", "furniture", "window", "bed", "column",
)  # fmt: skip
LISTENER_HEIGHT_M = 1.5
# Ears stay this far from walls, and from furniture beside them.
_FROM_WALL_M, _FROM_BOX_M = 0.5, 0.25
_BETWEEN_M = 0.1
_TRIES = 60
_BESIDE_M = 1.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A piece of furniture.

    Attributes:
        class_name: One of `CLASSES`.
        low: Its least corner.
        high: Its greatest corner.
        absorption: Share of the sound's energy that its surfaces keep.
    """

    class_name: str
    low: Xyz
    high: Xyz
    absorption: float


@dataclass(frozen=True, kw_only=True)
class Room:
    """A room.

    Attributes:
        size_m: Length, width and height.
        boxes: Its furniture.
        walls: Share of the sound's energy kept by the walls at low x, high x, low y, high y, the
            floor and the ceiling.
    """

    size_m: Xyz
    boxes: tuple[Box, ...]
    walls: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where somebody stands.

    Attributes:
        xyz: Middle of the head.
        heading_rad: Turn of the head about z; at 0 it looks along x.
        source: Where the sound is made.
    """

    xyz: Xyz
    heading_rad: float
    source: Xyz


@dataclass(frozen=True)
class _Piece:
    """A kind of furniture: class, least and largest length, depth and height, what it absorbs."""

    class_name: str
    least: Xyz
    largest: Xyz
    absorption: float
    at_wall: bool = True
    above_m: float = 0.0


_PIECES = (
    _Piece("furniture", (0.6, 0.4, 1.5), (1.8, 0.6, 2.1), 0.10),  # cupboard
    _Piece("bed", (1.9, 0.9, 0.45), (2.1, 1.6, 0.6), 0.60),
    _Piece("seat", (1.2, 0.8, 0.75), (2.1, 0.95, 0.9), 0.50),
    # A table is its top; legs are too thin for echoes and panoramas of a few degrees.
    _Piece("furniture", (1.0, 0.7, 0.05), (1.8, 1.0, 0.06), 0.10, at_wall=False, above_m=0.70),
    _Piece("column", (0.3, 0.3, 9.0), (0.5, 0.5, 9.0), 0.05, at_wall=False),
)


def draw_room(random: np.random.Generator, least: int, most: int) -> Room:
    """A room with furniture that stands at walls or freely and does not overlap.

    Args:
        random: What it is drawn by.
        least: Least number of pieces that are tried.
        most: Largest number.
    """
    length, width = random.uniform(3.0, 7.5), random.uniform(2.8, 6.0)
    size: Xyz = (float(length), float(width), float(random.uniform(2.4, 3.4)))
    hard, floor, ceiling = (
        random.uniform(0.03, 0.15, 4),
        random.choice([0.05, 0.35]),  # wood or carpet
        random.choice([0.05, 0.30]),  # plaster or tiles that absorb
    )
    boxes: list[Box] = []
    for _ in range(int(random.integers(least, most + 1))):
        piece = _PIECES[int(random.integers(len(_PIECES)))]
        for _ in range(_TRIES):
            box = _placed(piece, size, random)
            if box is not None and not any(_near(box, other) for other in boxes):
                boxes.append(box)
                break
    west, east, south, north = (float(a) for a in hard)
    walls = (west, east, south, north, float(floor), float(ceiling))
    return Room(size_m=size, boxes=tuple(boxes), walls=walls)


def draw_listener(room: Room, random: np.random.Generator, *, beside: bool) -> Listener:
    """A free place, looking along one of the walls.

    Args:
        room: The room.
        random: What it is drawn by.
        beside: The sound is made elsewhere, not by the listener.
    """
    xyz = _free_place(room, random)
    source = xyz
    if beside:
        for _ in range(_TRIES):
            source = _free_place(room, random)
            if np.hypot(source[0] - xyz[0], source[1] - xyz[1]) >= _BESIDE_M:
                break
    heading = float(random.integers(4)) * np.pi / 2
    return Listener(xyz=xyz, heading_rad=heading, source=source)


def turn(heading_rad: float) -> Float[Reals, "3 3"]:
    """Rotation from the listener's axes (x ahead, y to the left, z up) to the room's."""
    # Quarter turns stay exact, so that rays along walls do not leave them.
    cos, sin = (round(float(f(heading_rad)), 12) for f in (np.cos, np.sin))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def solid(room: Room, xy: Float[Reals, "N 2"]) -> Bool[NDArray[np.bool_], " N"]:
    """Where one cannot stand: beyond the walls, or on the floor area of furniture, tables too.

    Args:
        room: The room.
        xy: Places in the room's frame.
    """
    blocked = ((xy < 0) | (xy > np.array(room.size_m[:2]))).any(axis=1)
    for box in room.boxes:
        low, high = np.array(box.low[:2]), np.array(box.high[:2])
        blocked |= ((xy >= low) & (xy <= high)).all(axis=1)
    return blocked


def _placed(piece: _Piece, size: Xyz, random: np.random.Generator) -> Box | None:
    """A piece somewhere in the room; None where it does not fit."""
    long, deep, high = (
        float(random.uniform(a, b)) for a, b in zip(piece.least, piece.largest, strict=True)
    )
    side = int(random.integers(4))
    spans = (long, deep) if side < 2 else (deep, long)
    free = [size[axis] - spans[axis] for axis in (0, 1)]
    if min(free) < 2 * _FROM_WALL_M:
        return None
    corner = [float(random.uniform(0, room_m)) for room_m in free]
    if piece.at_wall:
        # Its back is at the wall, exactly, so that there is no gap to reckon with.
        across = 1 if side < 2 else 0
        corner[across] = 0.0 if side % 2 == 0 else free[across]
    else:
        # At a wall it would leave a gap too narrow to be seen or heard right.
        corner = [
            min(max(c, _FROM_WALL_M), f - _FROM_WALL_M) for c, f in zip(corner, free, strict=True)
        ]
    top = min(piece.above_m + high, size[2])
    ends = [
        size[axis] if corner[axis] == free[axis] else corner[axis] + spans[axis] for axis in (0, 1)
    ]
    return Box(
        class_name=piece.class_name,
        low=(corner[0], corner[1], piece.above_m),
        high=(ends[0], ends[1], top),
        absorption=piece.absorption,
    )


def _near(one: Box, other: Box) -> bool:
    """Whether two pieces stand closer than a gap."""
    return all(
        one.low[axis] < other.high[axis] + _BETWEEN_M
        and other.low[axis] < one.high[axis] + _BETWEEN_M
        for axis in (0, 1)
    )


def _free_place(room: Room, random: np.random.Generator) -> Xyz:
    """A place away from walls and furniture; the freest of many where there is none."""
    low, high = _FROM_WALL_M, np.array(room.size_m[:2]) - _FROM_WALL_M
    places = random.uniform(low, high, (_TRIES, 2))
    gaps = [_gap(room, place) for place in places]
    best = next((i for i, gap in enumerate(gaps) if gap >= _FROM_BOX_M), int(np.argmax(gaps)))
    return float(places[best, 0]), float(places[best, 1]), LISTENER_HEIGHT_M


def _gap(room: Room, xy: Reals) -> float:
    """How far a place is from the nearest piece, negative inside."""
    gaps = [np.inf]
    for box in room.boxes:
        outside = np.maximum(np.array(box.low[:2]) - xy, xy - np.array(box.high[:2]))
        inner = float(outside.max())
        gaps.append(inner if inner < 0 else float(np.hypot(*np.maximum(outside, 0))))
    return min(gaps)
