"""Making a world: the one call that other parts use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from xmodal.atomic import atomic_folder
from xmodal.errors import UsageError
from xmodal.world.options import WorldOptions, check_options


def make_world(
    out: Path, options: WorldOptions, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make a table-top world and write it as a labelled, posed RGB-D folder.

    The folder holds `color/`, `depth/` (uint16, millimetres), `pose/` (`T_world_cam`, OpenCV axes,
    metres), `label/` (0 unlabelled, k + 1 for entry k of `classes.json`), `intrinsic.txt`,
    `points.ply` with `labels.npy` (int32, entry of `classes.json`; sampled on the true surfaces, so
    none is -1), `classes.json` and `scene.json` (conventions, options, object poses). It appears
    under its name only when it is complete. The same options give the same bytes on the same
    machine; a folder that was made from these options is not made again.

    Args:
        out: The folder to make. Its parents are made when missing.
        options: What the world is made of.
        progress: Called with (views drawn, views in all).

    Returns:
        `out`.

    Raises:
        UsageError: If an option is impossible or `out` holds something else.
        BackendError: If MuJoCo or OpenGL is missing.
        DataError: If the folder cannot be written.
    """
    check_options(options)
    # Imported here because it loads MuJoCo, which takes a moment and may not be there.
    from xmodal.world.export import GENERATOR, options_json, write_world

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if _made_from(out, options_json(options), GENERATOR):
            return out
        raise UsageError(
            str(out),
            wanted="a new folder, or a world made from the same options",
            got="something else is there",
            fix="choose another folder, or delete this one",
        )
    with atomic_folder(out) as temporary:
        write_world(temporary, options, progress)
    return out


def _made_from(out: Path, options: object, generator: int) -> bool:
    """Whether a finished world of these options lies there."""
    try:
        found = json.loads((out / "scene.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    world = found.get("world") if isinstance(found, dict) else None
    return (
        isinstance(world, dict)
        and world.get("options") == options
        and world.get("generator") == generator
    )
