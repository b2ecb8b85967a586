"""A small writer of COLMAP models, text and binary, for tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

NUMBERS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "FOV": 7,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
    "THIN_PRISM_FISHEYE": 10,
}


@dataclass
class Model:
    """What to write; every part may be spoilt before."""

    cameras: list[tuple] = field(default_factory=list)  # id, model, width, height, parameters
    images: list[tuple] = field(default_factory=list)  # id, q_wxyz, t, camera id, name
    points: list[tuple] = field(default_factory=list)  # id, xyz, rgb, error, track

    def write(self, folder: Path, *, text: bool) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (self._text if text else self._binary)(folder)
        return folder

    def _text(self, folder: Path) -> None:
        lines = ["# Camera list", f"# Number of cameras: {len(self.cameras)}"]
        lines += [_words(i, m, w, h, *p) for i, m, w, h, p in self.cameras]
        (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = ["# Image list", f"# Number of images: {len(self.images)}, mean observations: 2"]
        for index, (i, q, t, c, name) in enumerate(self.images):
            seen = "" if index == 0 else "10.5 20.25 1 11 12 -1"
            lines += [_words(i, *q, *t, c, name), seen]
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        lines = [f"# Number of points: {len(self.points)}, mean track length: 2"]
        for i, xyz, rgb, error, track in self.points:
            lines.append(_words(i, *xyz, *rgb, error, *(n for pair in track for n in pair)))
        (folder / "points3D.txt").write_text("\n".join(lines) + "\n")

    def _binary(self, folder: Path) -> None:
        data = struct.pack("<Q", len(self.cameras))
        for i, model, width, height, parameters in self.cameras:
            data += struct.pack("<iiQQ", i, NUMBERS[model], width, height)
            data += struct.pack(f"<{len(parameters)}d", *parameters)
        (folder / "cameras.bin").write_bytes(data)
        data = struct.pack("<Q", len(self.images))
        for index, (i, q, t, c, name) in enumerate(self.images):
            data += struct.pack("<i7di", i, *q, *t, c) + name.encode() + b"\0"
            data += struct.pack("<Q", 2 * (index > 0))
            data += struct.pack("<ddqddq", 10.5, 20.25, 1, 11, 12, -1) * (index > 0)
        (folder / "images.bin").write_bytes(data)
        data = struct.pack("<Q", len(self.points))
        for i, xyz, rgb, error, track in self.points:
            data += struct.pack("<Q3d3BdQ", i, *xyz, *rgb, error, len(track))
            data += b"".join(struct.pack("<ii", *pair) for pair in track)
        (folder / "points3D.bin").write_bytes(data)


def _words(*numbers: object) -> str:
    return " ".join(repr(n) if isinstance(n, float) else str(n) for n in numbers)


def quaternion(R: np.ndarray) -> tuple[float, ...]:
    """Quaternion w x y z of a rotation, an eigenvector of its symmetric form (Bar-Itzhack)."""
    (a, b, c), (d, e, f), (g, h, i) = R
    form = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    q = np.linalg.eigh(form)[1][:, -1]
    return tuple(float(x) for x in q * (1 if q[0] >= 0 else -1))


def model_of(room, *, lens="PINHOLE", parameters=None, num_points=30) -> Model:
    """The room as COLMAP would describe it: poses from world to camera, points on its walls."""
    K, (height, width) = room.K, room.hw
    if parameters is None:
        parameters = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    made = Model(cameras=[(3, lens, width, height, parameters)])
    for index, view in enumerate(room.views):
        T = np.linalg.inv(view.T_world_cam)
        name = f"{view.name}.png"
        pose = quaternion(T[:3, :3]), tuple(float(x) for x in T[:3, 3])
        made.images.append((index + 1, *pose, 3, name))
    rng = np.random.default_rng(0)
    view = room.views[0]
    for index in range(num_points):
        row, column = int(rng.integers(height)), int(rng.integers(width))
        ray = np.linalg.inv(K) @ (column + 0.5, row + 0.5, 1.0) * view.depth_m[row, column]
        xyz = view.T_world_cam[:3, :3] @ ray + view.T_world_cam[:3, 3]
        rgb = tuple(int(c) for c in view.rgb[row, column])
        track = [(1, index), (2, index)][: 1 + index % 2]
        made.points.append(
            (index + 7, tuple(float(x) for x in xyz), rgb, 0.25 * (index % 4), track)
        )
    return made


def write_pictures(root: Path, room, folder="images") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for view in room.views:
        Image.fromarray(view.rgb).save(root / folder / f"{view.name}.png")


def write_scene(root: Path, room, *, text=True, place="sparse/0", model=None) -> Path:
    """Pictures and a model of the room."""
    write_pictures(root, room)
    (model or model_of(room)).write(root / place, text=text)
    return root
