"""Rooms that are heard and seen (DAPS): sound, a painted panorama, and maps of what is around.

    img/SCENE/depth/PLACE.png           uint16, metres times 6553.6 along each ray; 0 no reading
    img/SCENE/semantic_cat/PLACE.png    uint8, number of a class; 0 is what belongs to none
    img/SCENE/rgb/PLACE.jpg             panorama, equirectangular
    audio/SCENE/PLACE.wav               what is heard there, or else of SoundSpaces
    binaural_rirs/mp3d/SCENE/0/PLACE_PLACE.wav   the impulse response of one's own sound
    occupancy/SCENE/PLACE.png           uint8, 1 where one cannot stand; of our own rooms only
    voxels/SCENE/PLACE.png              uint8, slices of a volume one below another; of ours only

`img/` is what the tools of the benchmark write. A recording is a place, named `SCENE_PLACE`; its
group is the scene. Its maps are `depth`, `semantics`, `occupancy` and `voxels`: a node of kind
`grids` reads the map of its own name. Places may lack maps.

Source:
    Yun, Na and Kim, Dense 2D-3D indoor prediction with sound via aligned cross-modal distillation,
    ICCV 2023 (github.com/hs-yn/DAPS); Chen et al., SoundSpaces, ECCV 2020, for the sounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import Recording, Recordings
from xmodal.values import Grids, Video

# The code is metres / 10 * 65536: it ends just below ten metres.
DEPTH_SCALE = 6553.6
_PICTURES = (".jpg", ".png")


def open_daps(folder: Path) -> Recordings:
    """The places of a folder, by scene.

    Raises:
        DataError: If there are none, or one cannot be heard.
    """
    # Rooms that nobody measured are seen and heard all the same.
    seen = [path for kind in ("depth", "rgb") for path in folder.glob(f"img/*/{kind}/*.*")]
    places = {(path.parts[-3], path.stem) for path in seen if path.suffix in _PICTURES}
    items = [_recording(folder, *place) for place in sorted(places, key=_order)]
    if not items:
        raise DataError(
            str(folder),
            wanted="img/SCENE/depth/PLACE.png, or rgb/PLACE.jpg",
            got="none",
            fix="see data/rooms.md for the layout; xmodal rooms --out FOLDER makes such a folder",
        )
    return Recordings(name=folder.name, items=tuple(items))


def _order(place: tuple[str, str]) -> tuple[str, int, str]:
    """Scenes by name, places by number."""
    scene, name = place
    return scene, int(name) if name.isdecimal() else -1, name


def _recording(folder: Path, scene: str, place: str) -> Recording:
    pictures = folder / "img" / scene
    sounds = (
        folder / "audio" / scene / f"{place}.wav",
        folder / "binaural_rirs" / "mp3d" / scene / "0" / f"{place}_{place}.wav",
    )
    sound = next((path for path in sounds if path.is_file()), None)
    if sound is None:
        raise DataError(
            str(folder),
            wanted=f"the sound of place {place} of {scene}: {sounds[0]}, or {sounds[1]}",
            got="neither",
            fix="add the sound, or remove the pictures of this place",
        )
    streams: dict[Kind, Callable[[], Stream]] = {"audio": partial(_read_sound, sound)}
    files = [sound]
    names = [pictures / "rgb" / f"{place}{suffix}" for suffix in _PICTURES]
    seen = next((path for path in names if path.is_file()), None)
    if seen is not None:
        streams["video"] = partial(_read_picture, seen)
        files.append(seen)
    maps: dict[str, Callable[[], Grids]] = {}
    for name, path, reader in (
        ("depth", pictures / "depth" / f"{place}.png", _read_depth),
        ("semantics", pictures / "semantic_cat" / f"{place}.png", _read_classes),
        ("occupancy", folder / "occupancy" / scene / f"{place}.png", _read_plan),
        ("voxels", folder / "voxels" / scene / f"{place}.png", _read_plan),
    ):
        if path.is_file():
            maps[name] = partial(reader, path)
            files.append(path)
    return Recording(
        name=f"{scene}_{place}", group=scene, streams=streams, maps=maps, files=tuple(files)
    )


def _read_sound(path: Path) -> Stream:
    from xmodal.recordings.audio_files import read_audio

    return read_audio(path)


def _read_picture(path: Path) -> Video:
    """The panorama as a film of one frame."""
    pixels = _pixels(path, "RGB")
    return Video(
        rgb=torch.from_numpy(pixels.copy()).movedim(2, 0)[None].contiguous(),
        time_s=torch.zeros(1),
        offsets=torch.tensor([0, 1]),
    )


def _read_depth(path: Path) -> Grids:
    """Metres; cells without a reading are not valid."""
    coded = _flat(path, (np.uint16, np.int32)).astype(np.float32)
    return _map(coded / DEPTH_SCALE, coded > 0)


def _read_classes(path: Path) -> Grids:
    """Numbers of classes; cells of none are not valid."""
    numbers = _flat(path, (np.uint8,))
    return _map(numbers.astype(np.float32), numbers > 0)


def _read_plan(path: Path) -> Grids:
    """1 where something is, 0 where it is free."""
    marks = _flat(path, (np.uint8,))
    if marks.max() > 1:
        raise DataError(
            str(path),
            wanted="a map of 0 (free) and 1 (occupied)",
            got=f"values up to {marks.max()}",
            fix="write 1 for occupied cells, not 255",
        )
    return _map(marks.astype(np.float32), np.ones(marks.shape, dtype=np.bool_))


def _map(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> Grids:
    rows = torch.from_numpy(values.reshape(-1, 1).astype(np.float32))
    known = torch.from_numpy(valid.ravel().copy())
    return Grids(
        rows=rows,
        valid=known,
        weight=known.to(torch.float32),
        grid_hw=(values.shape[0], values.shape[1]),
        offsets=torch.tensor([0, len(rows)]),
    )


def _flat(path: Path, types: tuple[Any, ...]) -> NDArray[Any]:
    """A picture of one channel."""
    pixels = _pixels(path, None)
    if pixels.ndim != 2 or pixels.dtype not in types:
        raise DataError(
            str(path),
            wanted=f"one channel of {np.dtype(types[0]).name}",
            got=f"{pixels.shape} of {pixels.dtype}",
            fix="write the map as a grey PNG, see data/rooms.md",
        )
    return pixels


def _pixels(path: Path, mode: str | None) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture if mode is None else picture.convert(mode))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            str(path),
            wanted="a picture",
            got=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="fetch or write the file again",
        ) from error
