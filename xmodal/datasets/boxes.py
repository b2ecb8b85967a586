"""Boxes of text queries in single frames, for measuring localisation (the LERF protocol)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lifting.cameras import Camera, pixel_rays, project
from xmodal.datasets.settings import SceneSettings, read_json
from xmodal.errors import DataError

Box = tuple[float, float, float, float]
"""Pixels of the colour frame: x0, y0, x1, y1, with x0 < x1 and y0 < y1."""

FrameBoxes = dict[str, list[Box]]
"""Boxes by query text."""

# Hand-drawn boxes may touch the far border inclusively or exclusively.
_BORDER_PX = 1.0


def read_boxes(
    root: Path, settings: SceneSettings, *, names: Sequence[str], hw: tuple[int, int]
) -> dict[str, FrameBoxes]:
    """Read the boxes of a scene from `localisation.json` or from `scene.json`.

    Args:
        root: The scene folder.
        settings: Its `boxes` are a mapping, or the name of a file in `root`.
        names: All frames of the scene, used or not.
        hw: Height and width of the colour frames.

    Returns:
        Frame name to text to boxes; empty when the scene has none.

    Raises:
        DataError: If a box is no box, leaves the image, or names an unknown frame.
    """
    source, data = _find(root, settings)
    if data is None:
        return {}
    frames = data.get("frames", data) if isinstance(data, dict) else data
    if not isinstance(frames, dict):
        raise _wrong(source, "a mapping from frame names to boxes", type(frames).__name__)
    unknown = sorted(set(frames) - set(names))
    if unknown:
        raise _wrong(source, "names of frames in this scene", ", ".join(map(str, unknown[:5])))
    boxes: dict[str, FrameBoxes] = {}
    for name, texts in frames.items():
        if not isinstance(texts, dict):
            raise _wrong(source, f"a mapping text -> boxes for frame {name}", repr(texts)[:60])
        boxes[name] = {
            str(text): [_box(box, hw, f"{source}: {name}: {text}") for box in _listed(found)]
            for text, found in texts.items()
        }
    return boxes


def moved_boxes(boxes: FrameBoxes, old: Camera, new: Camera) -> FrameBoxes:
    """Boxes of a frame in the pixels of a camera that stands where the first one stood.

    A lens bends the sides of a box; the result is the upright box around where its corners and the
    middles of its sides come to lie, cut at the border. Boxes that leave the image are left out.
    """
    moved = {text: [_moved(box, old, new) for box in found] for text, found in boxes.items()}
    return {text: [box for box in found if box is not None] for text, found in moved.items()}


def _moved(box: Box, old: Camera, new: Camera) -> Box | None:
    x, y = torch.tensor(box, dtype=torch.float64).reshape(2, 2).unbind(1)
    u, v = (torch.stack((side[0], side.mean(), side[1])) for side in (x, y))
    uv = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)
    rays, known = pixel_rays(uv, old)
    seen = project(rays[known] + old.centre.double(), new).uv
    if not len(seen):
        return None
    sides = torch.tensor((new.hw[1], new.hw[0]), dtype=torch.float64)
    x0, y0 = seen.amin(0).clamp_min(0.0).tolist()
    x1, y1 = torch.minimum(seen.amax(0), sides).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _find(root: Path, settings: SceneSettings) -> tuple[str, Any]:
    if isinstance(settings.boxes, str):
        # Only a plain name: a scene folder must not reach outside itself.
        path = root / Path(settings.boxes).name
        return str(path), read_json(path)
    if settings.boxes is not None:
        return str(root / "scene.json"), settings.boxes
    path = root / "localisation.json"
    return str(path), read_json(path) if path.exists() else None


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _box(box: Any, hw: tuple[int, int], where: str) -> Box:
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(_is_number(n) for n in numbers):
        raise _wrong(where, "boxes [x0, y0, x1, y1] in pixels", repr(box)[:60])
    x0, y0, x1, y1 = (float(n) for n in numbers)
    inside = min(x0, y0) >= -_BORDER_PX and x1 <= hw[1] + _BORDER_PX and y1 <= hw[0] + _BORDER_PX
    if not (x0 < x1 and y0 < y1 and inside):
        raise _wrong(where, f"x0 < x1, y0 < y1 inside {hw[1]} x {hw[0]}", repr(box)[:60])
    return x0, y0, x1, y1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(where: str, wanted: str, got: str) -> DataError:
    return DataError(where, wanted=wanted, got=got, fix="correct this file")
