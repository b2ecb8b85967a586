"""Kinds of nodes, and the ports of an op read from the type hints of its call.

Hints are read as text, so that neither the values nor torch need to be imported to check a graph.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from xmodal.errors import BackendError

Kind = Literal[
    "image",
    "depth",
    "feature_map",
    "masks",
    "points",
    "point_sets",
    "labels",
    "voxels",
    "bev",
    "gaussians",
    "frames",
    "audio",
    "imu",
    "skeleton",
    "video",
    "grids",
    "embedding",
    "boxes",
    "text",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# What a dataset can give; the other kinds are always the work of an op.
SENSORS: tuple[Kind, ...] = (
    "image",
    "depth",
    "points",
    "labels",
    "gaussians",
    "audio",
    "imu",
    "skeleton",
    "video",
    "grids",
    "boxes",
    "text",
)
# Rows of these kinds belong to a geometry, which `on:` names.
SUPPORTED: tuple[Kind, ...] = ("points", "point_sets", "voxels", "bev", "gaussians")
# These have features by nature, so such a node always says how wide they are.
FEATURES: tuple[Kind, ...] = (
    "feature_map", "masks", "point_sets", "frames", "embedding", "bev", "voxels", "grids",
)  # fmt: skip


def grounds(kind: Kind) -> tuple[Kind, ...]:
    """Kinds of node that rows of a kind may stand on.

    Sets of points may also be of splats' centres, and splats be made of points, one of each.
    """
    if kind == "point_sets":
        return ("points", "gaussians")
    return ("gaussians", "points") if kind == "gaussians" else (kind,)


_CLASSES: Mapping[str, Kind] = MappingProxyType(
    {
        "Image": "image",
        "Depth": "depth",
        "FeatureMap": "feature_map",
        "Masks": "masks",
        "Points": "points",
        "PointSets": "point_sets",
        "Labels": "labels",
        "Voxels": "voxels",
        "Bev": "bev",
        "Gaussians": "gaussians",
        "Frames": "frames",
        "Audio": "audio",
        "Imu": "imu",
        "Skeleton": "skeleton",
        "Video": "video",
        "Grids": "grids",
        "Embedding": "embedding",
        "Boxes": "boxes",
        "Text": "text",
    }
)
_NOT_PORTS = ("net", "teacher")


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input of an op.

    Attributes:
        name: The parameter.
        kinds: Kinds of node it takes.
        optional: Whether it may stay empty.
        many: Whether it takes every source that is left.
        default: What the op gets when an optional port stays empty.
    """

    name: str
    kinds: tuple[Kind, ...]
    optional: bool = False
    many: bool = False
    default: object = None


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Inputs of an op in order, the kinds it gives, and whether a module or teacher comes first."""

    inputs: tuple[Port, ...]
    gives: tuple[Kind, ...]
    first: Literal["net", "teacher"] | None


@functools.cache
def ports_of(op: type[Any]) -> Ports:
    """Read the ports of an op.

    Raises:
        BackendError: If a parameter has no hint that names a value: the op is at fault.
    """
    signature = inspect.signature(op.__call__)
    parameters = list(signature.parameters.values())[1:]
    first: Literal["net", "teacher"] | None = None
    if parameters and _is_not_a_port(parameters[0]):
        first = "net" if parameters[0].name == "net" else "teacher"
        parameters = parameters[1:]
    inputs: list[Port] = []
    for parameter in parameters:
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            continue  # settings of one call, such as a progress bar; never fed by the graph
        kinds, optional = _kinds(parameter.annotation)
        if not kinds:
            raise BackendError(
                f"{op.__module__}.{op.__qualname__}.__call__, parameter `{parameter.name}`",
                wanted="a type hint that names a value of xmodal.values",
                got=repr(parameter.annotation),
                fix="correct the hint, or uninstall the package that has this op",
            )
        many = parameter.kind == parameter.VAR_POSITIONAL
        default = None if parameter.default is parameter.empty else parameter.default
        inputs.append(
            Port(
                name=parameter.name,
                kinds=kinds,
                optional=optional or parameter.default is not parameter.empty,
                many=many,
                default=default,
            )
        )
    gives, _ = _kinds(signature.return_annotation)
    return Ports(inputs=tuple(inputs), gives=gives, first=first)


def _is_not_a_port(parameter: inspect.Parameter) -> bool:
    # the teacher's node of a distill op may be called `teacher` too: then the hint is a value
    return parameter.name in _NOT_PORTS and not _kinds(parameter.annotation)[0]


def _kinds(hint: object) -> tuple[tuple[Kind, ...], bool]:
    """Kinds named in a hint, and whether it allows None."""
    text = hint if isinstance(hint, str) else _hint_text(hint)
    names = [
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(ast.parse(text, mode="eval"))
        if isinstance(node, (ast.Name, ast.Attribute))
    ]
    kinds: tuple[Kind, ...] = tuple(
        dict.fromkeys(_CLASSES[name] for name in names if name in _CLASSES)
    )
    optional = "Optional" in names or "None" in text
    return kinds, optional


def _hint_text(hint: object) -> str:
    """A hint that was not kept as text, as text: classes by name, generics by their arguments."""
    arguments = get_args(hint)
    if arguments:
        return f"({', '.join(_hint_text(argument) for argument in arguments)},)"
    if isinstance(hint, type):
        return hint.__name__
    return "None"


def gives_of(op: object) -> tuple[Kind, ...]:
    """Kinds that an op gives with its settings: its `gives` if it has one, else its return hint."""
    own: Any = getattr(op, "gives", None)
    return (own,) if own in KINDS else ports_of(type(op)).gives


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """Why sources do not fit: a source that no free port takes, or a port that stays empty."""

    source: int | None = None
    port: str | None = None


def assign(inputs: Sequence[Port], kinds: Sequence[Kind]) -> tuple[tuple[int, ...], ...] | Misfit:
    """Give each source the first free port that takes its kind.

    Args:
        inputs: Ports of an op.
        kinds: Kinds of the sources, in the order of the edge.

    Returns:
        For each port the indices of its sources: one, none for an optional port left empty, or
        several for a port with `many`.
    """
    taken: list[list[int]] = [[] for _ in inputs]
    for index, kind in enumerate(kinds):
        for port, mine in zip(inputs, taken, strict=True):
            if kind in port.kinds and (port.many or not mine):
                mine.append(index)
                break
        else:
            return Misfit(source=index)
    for port, mine in zip(inputs, taken, strict=True):
        if not mine and not port.optional:
            return Misfit(port=port.name)
    return tuple(tuple(mine) for mine in taken)


def describe(inputs: Sequence[Port]) -> str:
    """Ports as people read them: `feature_map or masks, depth (optional), points`."""
    parts: list[str] = []
    for port in inputs:
        note = " (one or more)" if port.many else " (optional)" if port.optional else ""
        parts.append(" or ".join(port.kinds) + note)
    return ", ".join(parts) or "nothing"
