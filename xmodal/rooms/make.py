"""Making a data set of rooms: the one call that other parts use.

    OUT/audio/SCENE/PLACE.wav           what four microphones record, 24 bit
    OUT/img/SCENE/depth/PLACE.png       uint16, metres times 6553.6, along each ray of a panorama
    OUT/img/SCENE/semantic_cat/PLACE.png  uint8, numbers in `rooms.json: classes`
    OUT/img/SCENE/rgb/PLACE.jpg         the panorama in plain paints
    OUT/occupancy/SCENE/PLACE.png       uint8, 1 where one cannot stand, looking up the page
    OUT/voxels/SCENE/PLACE.png          uint8, 1 where something is, slice below slice
    OUT/rooms.json                      options, classes, and the geometry of every room

Rooms that nobody measured (`mapped`) have sounds and pictures alone.

`img/` is laid out and coded as the published benchmark is; `audio/`, `occupancy/` and `voxels/`
are ours.

Source:
    Yun, Na and Kim, Dense 2D-3D indoor prediction with sound via aligned cross-modal distillation
    (DAPS), ICCV 2023, for the layout of pictures, their codes and the merged classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmodal.atomic import atomic_folder, write_json
from xmodal.errors import BackendError, UsageError
from xmodal.recordings.daps import DEPTH_SCALE
from xmodal.rooms.echoes import SPEED_MPS, excitation, heard, impulse_responses, microphones
from xmodal.rooms.layout import CLASSES, Listener, Room, draw_listener, draw_room
from xmodal.rooms.options import RoomSet, check_rooms
from xmodal.rooms.sight import floor_plan, painted, panorama, volume

# A number that changes whenever the same options would give other bytes.
GENERATOR = 2
_JPEG_QUALITY = 92


def make_rooms(
    out: Path, options: RoomSet, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make a data set of rooms; it appears under its name only when it is complete.

    The same options give the same bytes on the same machine; a folder that was made from these
    options is not made again.

    Args:
        out: The folder to make.
        options: How many rooms, and what they are made of.
        progress: Called with (rooms made, rooms in all).

    Returns:
        `out`.

    Raises:
        UsageError: If an option is impossible or `out` holds something else.
        BackendError: If pyroomacoustics or soundfile is not installed.
        DataError: If the folder cannot be written.
    """
    check_rooms(options)
    told = {"generator": GENERATOR, "options": json.loads(json.dumps(asdict(options)))}
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if _made_from(out, told):
            return out
        raise UsageError(
            str(out),
            wanted="a new folder, or rooms made from the same options",
            got="something else is there",
            fix="choose another folder, or delete this one",
        )
    seeds = options.seeds()
    with atomic_folder(out) as temporary:
        rooms: dict[str, Any] = {}
        for index, (name, seed) in enumerate(seeds.items()):
            rooms[name] = _write_room(temporary, name, (options.seed, seed), options)
            if progress is not None:
                progress(index + 1, len(seeds))
        write_json(temporary / "rooms.json", {**told, "classes": CLASSES, "rooms": rooms})
    return out


def _write_room(out: Path, name: str, seed: tuple[int, int], options: RoomSet) -> dict[str, Any]:
    """Write all places of one room.

    Returns:
        Its geometry.
    """
    random = np.random.default_rng(seed)
    room = draw_room(random, options.least_furniture, options.most_furniture)
    beside = options.source == "beside"
    listeners: list[Listener] = []
    for place in range(options.places):
        listener = draw_listener(room, random, beside=beside)
        listeners.append(listener)
        _write_sound(out / "audio" / name / f"{place}.wav", room, listener, options, random)
        _write_sight(out, f"{name}/{{}}/{place}", room, listener, options)
        if name in options.bare():
            continue
        plan = floor_plan(room, listener, options.plan_cells, options.cell_m)
        _write_picture(out / "occupancy" / name / f"{place}.png", plan.astype(np.uint8))
        inside = volume(room, listener, options.voxel_cells, options.slices, options.voxel_m)
        # Slices from the floor up, one below another.
        flat = inside.reshape(-1, options.voxel_cells).astype(np.uint8)
        _write_picture(out / "voxels" / name / f"{place}.png", flat)
    return {
        "size_m": room.size_m,
        "wall_absorption": room.walls,
        "boxes": [asdict(box) for box in room.boxes],
        "listeners": [
            {**asdict(one), "microphones": microphones(one).round(9).tolist()} for one in listeners
        ],
        "speed_mps": SPEED_MPS,
    }


def _write_sound(
    path: Path, room: Room, listener: Listener, options: RoomSet, random: np.random.Generator
) -> None:
    try:
        import soundfile
    except ImportError as error:
        raise BackendError(
            "sounds of rooms",
            wanted="soundfile",
            got="not installed",
            fix='pip install "xmodal[rooms]"',
        ) from error
    responses = impulse_responses(
        room,
        listener,
        rate_hz=options.rate_hz,
        early_order=options.early_order,
        late_order=options.late_order,
    )
    dry = excitation(options.sound, options.rate_hz, random)
    recorded = heard(responses, dry, round(options.duration_s * options.rate_hz))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), recorded, options.rate_hz, subtype="PCM_24")


def _write_sight(out: Path, name: str, room: Room, listener: Listener, options: RoomSet) -> None:
    images = out / "img"
    rgb = painted(room, listener, options.rgb_hw)
    _write_picture(images / f"{name.format('rgb')}.jpg", rgb)
    if name.partition("/")[0] in options.bare():
        return
    far, kind = panorama(room, listener, options.grid_hw)
    # 0 means no reading, and the code ends just below ten metres.
    coded = (far * DEPTH_SCALE).round().clip(1, 65535).astype(np.uint16)
    _write_picture(images / f"{name.format('depth')}.png", coded)
    _write_picture(images / f"{name.format('semantic_cat')}.png", kind)


def _write_picture(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # PNG has no quality and does not mind.
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)


def _made_from(out: Path, told: dict[str, Any]) -> bool:
    """Whether rooms of these options lie there."""
    try:
        found = json.loads((out / "rooms.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {k: found.get(k) for k in told} == told
