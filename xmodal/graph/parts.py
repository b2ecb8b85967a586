"""The parts of a modality graph: nodes, what their rows belong to, and edges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

from xmodal.edges import Op, Verb
from xmodal.graph.ports import Kind

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names become names of folders, so they can hold no path.
GRAPH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
ARROW_PATTERN = rf"\s*({NAME.pattern}(?:\s*,\s*{NAME.pattern})*)\s*->\s*({NAME.pattern})\s*"
_ARROW = re.compile(ARROW_PATTERN, re.ASCII)
Space = Literal["unit", "simplex", "raw"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A square bird's-eye grid around the ego vehicle: [-range_m, range_m) in cells of cell_m."""

    range_m: Annotated[float, Gt(0)]
    cell_m: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        cells = 2 * self.range_m / self.cell_m
        # 1e-6: decimal fractions such as 0.1 are not exact in binary
        if abs(cells - round(cells)) > 1e-6 * cells:
            raise ValueError(f"a whole number of cells (2 * range_m / cell_m is {cells:.3f})")


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A regular 3D grid in the world frame with cubes of side voxel_m."""

    voxel_m: Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A place in the graph where values are.

    Attributes:
        kind: What the values are.
        channels: Width of their features; None for sensors.
        on: The node whose geometry the rows belong to, or a grid; None where it is plain.
    """

    kind: Kind
    channels: Annotated[int, Gt(0)] | None = None
    on: str | Grid | Cells | None = None


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One operation between nodes."""

    verb: Verb
    sources: tuple[str, ...]
    target: str
    op: Op

    @property
    def key(self) -> str:
        """The arrow, as the file writes it: `maps, cloud -> lifted`."""
        return f"{', '.join(self.sources)} -> {self.target}"

    @property
    def is_teacher(self) -> bool:
        """Whether a frozen network works here."""
        return has_teacher(self.op)

    @property
    def has_weights(self) -> bool:
        """Whether the op builds a module that is trained."""
        return has_weights(self.op)


def split_arrow(key: str) -> tuple[tuple[str, ...], str] | None:
    """Sources and target of `a, b -> c`; None when the text is no arrow."""
    found = _ARROW.fullmatch(key)
    if found is None:
        return None
    return tuple(name.strip() for name in found[1].split(",")), found[2]


def has_teacher(op: object) -> bool:
    """Whether an op (or its class) is a frozen teacher."""
    return callable(getattr(op, "teacher", None))


def has_weights(op: object) -> bool:
    """Whether an op (or its class) builds a module."""
    return callable(getattr(op, "build", None))


def op_channels(op: object) -> int | None:
    """The width that an op gives, when it is known without loading anything."""
    channels: Any = getattr(op, "channels", None)
    return channels if isinstance(channels, int) else None


def op_space(op: object) -> Space | None:
    """The space of the rows that an op gives, when it is known without loading anything."""
    space: Any = getattr(op, "space", None)
    return space if space in ("unit", "simplex", "raw") else None


def projects(op: object) -> bool:
    """Whether a distill op brings teacher and student to one width by itself, or needs none."""
    return getattr(op, "project", "none") != "none" or getattr(op, "any_width", False)
