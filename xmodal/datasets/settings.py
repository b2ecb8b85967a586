"""`scene.json`: what the files of a posed RGB-D folder cannot say of themselves."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xmodal.datasets.calibration import rotation_error
from xmodal.errors import DataError

# A scene.json is a page of settings; anything larger is something else.
_MAX_BYTES = 10_000_000
_AXES = {
    "x": (1.0, 0.0, 0.0),
    "y": (0.0, 1.0, 0.0),
    "z": (0.0, 0.0, 1.0),
}
# How far an axis-align matrix may be from rigid: such files carry six digits.
_RIGID_TOLERANCE = 5e-3

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


LabelSet = Literal["scannet20", "scannet200", "s3dis"]
"""Classes that data sets are compared by."""


class SceneSettings(BaseModel):
    """The keys of `scene.json`; all are optional.

    Attributes:
        depth_scale: Stored depth units per metre; None takes the layout's default (1000).
        depth_encoding: `rotated3` for depth whose bits are rotated left by three.
        up: Up in the world frame (after `axis_align`): an axis such as `z` or `-y`, or a vector.
        axis_align: 4x4 rigid transform from the files' world to the world used from here on; it is
            applied to poses and to given points alike.
        boxes: Boxes for text queries: a mapping frame -> text -> list of [x0, y0, x1, y1], or the
            name of a file beside it that holds one.
        label_ids: Names of the ids in `label/` and, without `classes.json`, of the point labels.
        intrinsic_hw: Height and width the intrinsics were calibrated for, when the frames were
            resized afterwards.
        label_set: Which classes the point labels are told apart by: `scannet20`, `scannet200`,
            `s3dis`; those of the files if None.
        skip_missing: Leave pictures that a COLMAP model lists and the folder lacks out, instead of
            refusing the scene.
        cropped: True when the principal point is off-centre because the frames are crops.
        world: How a generated world was made (seed, options, object poses); not used in reading.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    depth_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    depth_encoding: Literal["plain", "rotated3"] = "plain"
    up: tuple[Number, Number, Number] | None = None
    axis_align: tuple[tuple[Number, ...], ...] | None = None
    boxes: dict[str, Any] | str | None = None
    label_ids: dict[int, str] = Field(default_factory=dict)
    intrinsic_hw: tuple[int, int] | None = None
    label_set: LabelSet | None = None
    skip_missing: bool = False
    cropped: bool = False
    world: dict[str, Any] | None = None

    @field_validator("up", mode="before")
    @classmethod
    def _axis(cls, value: object) -> object:
        if isinstance(value, str):
            axis = _AXES.get(value.lstrip("+-").lower())
            if axis is None:
                raise ValueError("an axis is one of x, y, z, -x, -y, -z")
            sign = -1.0 if value.startswith("-") else 1.0
            return tuple(sign * part for part in axis)
        return value

    @field_validator("up")
    @classmethod
    def _unit(cls, value: tuple[float, float, float] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        length = math.hypot(*value)
        if length == 0:
            raise ValueError("a direction cannot be zero")
        return tuple(part / length for part in value)

    @field_validator("axis_align")
    @classmethod
    def _rigid(cls, value: tuple[tuple[float, ...], ...] | None) -> object:
        if value is None:
            return None
        if len(value) != 4 or any(len(row) != 4 for row in value):
            raise ValueError("a 4x4 matrix is wanted, as a list of four rows")
        error = rotation_error(value)
        if error > _RIGID_TOLERANCE:
            raise ValueError(f"not a rigid transform: ||R R^T - I|| = {error:.3g}")
        return value


def read_settings(root: Path) -> tuple[SceneSettings, tuple[str, ...]]:
    """Read `scene.json` of a scene, or the defaults when there is none.

    Args:
        root: The scene folder.

    Returns:
        The settings, and the keys that were not understood (an unknown key that looks like a
        misspelt setting is an error instead).

    Raises:
        DataError: If the file is no JSON object or a value is wrong; all mistakes at once.
    """
    path = root / "scene.json"
    if not path.exists():
        return SceneSettings(), ()
    data = read_json(path)
    known = tuple(SceneSettings.model_fields)
    if not isinstance(data, dict):
        raise _wrong(path, "a JSON object", type(data).__name__)
    unknown = tuple(str(key) for key in data if key not in known)
    for key in unknown:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near:
            raise _wrong(path, f"the key `{near[0]}`", f"the key `{key}`")
    try:
        return SceneSettings.model_validate(data), unknown
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}, got {e['input']!r:.60}"
            for e in error.errors()
        ]
        raise _wrong(path, "valid scene settings", "; ".join(problems)) from error


def read_json(path: Path, *, max_bytes: int = _MAX_BYTES) -> Any:
    """Read a small JSON file.

    Args:
        path: The file.
        max_bytes: Larger files are not read.

    Raises:
        DataError: If it is missing, larger than that, not UTF-8, not JSON, nests too deeply or
            has a key twice.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise _wrong(path, f"at most {max_bytes} bytes", f"{path.stat().st_size} bytes")
        return json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(path, "a readable JSON file", f"{type(error).__name__}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else None
    if twice:
        raise ValueError(f"key {sorted(twice)[0]!r} is given twice")
    return dict(pairs)


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix="correct this file")
