"""Making a world and writing it as a posed RGB-D folder with labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt16
from numpy.typing import NDArray
from PIL import Image

from xmodal.ply import write_points
from xmodal.values import Points
from xmodal.world.cameras import camera_path
from xmodal.world.layout import place_objects
from xmodal.world.meshes import Ints, Reals
from xmodal.world.models import Part
from xmodal.world.options import WorldOptions
from xmodal.world.points import SurfacePoints, sample_parts, seen_points
from xmodal.world.render import ViewRenderer
from xmodal.world.room import ROOM_CLASSES, make_room
from xmodal.world.scene import Scene, make_scene, object_pose
from xmodal.world.sensor import noisy_depth
from xmodal.world.view import View, intrinsics

DEPTH_SCALE = 1000
# Part of every scene.json, so that folders of older code are told apart; raise it whenever the
# same options give other bytes.
GENERATOR = 1
# Points lie this much denser on objects, sparser on floor and walls, than on the table: a golf ball
# still has a hundred, and the room does not outnumber the table.
_OBJECT_SPACING, _ROOM_SPACING = 0.5, 4.0
_CLEARANCE_M = 0.35  # cameras keep this far from objects
_COMPRESSION = 2  # of 9: three times faster than PIL's default for a tenth more bytes


def write_world(
    folder: Path, options: WorldOptions, progress: Callable[[int, int], None] | None
) -> None:
    """Make the world of `options` and write its files into `folder`, which exists and is empty."""
    scene = _build(options)
    class_of, classes = _classes(scene)
    K = intrinsics(options.hw)
    views: list[View] = []
    for view in _draw(scene, options):
        _write_view(folder, len(views), view, class_of, options)
        views.append(view)
        if progress is not None:
            progress(len(views), options.num_views)
    xyz, normals, owner = sample_scene(scene, options)
    points = seen_points(xyz, normals, owner, views, K)
    _write_points(folder, points, class_of)
    np.savetxt(folder / "intrinsic.txt", K, fmt="%.9g")
    _write_json(folder / "classes.json", classes)
    _write_json(folder / "scene.json", describe(scene, options))


def sample_scene(
    scene: Scene, options: WorldOptions
) -> tuple[Float[Reals, "N 3"], Float[Reals, "N 3"], Int[Ints, " N"]]:
    """Sample positions, normals and owners on all surfaces of a settled scene, seen or not."""
    random = np.random.default_rng((options.seed, 4))
    xyz: list[Reals] = []
    normals: list[Reals] = []
    owner: list[Ints] = []

    def add(parts: list[Part], pose: Reals, spacing_m: float, index: int) -> None:
        local, direction = sample_parts(parts, spacing_m=spacing_m, random=random)
        xyz.append(local @ pose[:3, :3].T + pose[:3, 3])
        normals.append(direction @ pose[:3, :3].T)
        owner.append(np.full(len(local), index, np.int64))

    for index, surface in enumerate(scene.room):
        near = surface.class_name == "table"
        spacing_m = options.spacing_m * (1 if near else _ROOM_SPACING)
        add([surface.part], np.eye(4), spacing_m, index)
    for index, item in enumerate(scene.placed):
        pose = object_pose(scene, index)
        spacing_m = options.spacing_m * _OBJECT_SPACING
        add(list(item.model.parts), pose, spacing_m, len(scene.room) + index)
    return np.concatenate(xyz), np.concatenate(normals), np.concatenate(owner)


def describe(scene: Scene, options: WorldOptions) -> dict[str, Any]:
    """What `scene.json` says: conventions, options and where every object came to rest."""
    objects: list[dict[str, Any]] = []
    for index, item in enumerate(scene.placed):
        pose = object_pose(scene, index)
        world = item.model.xyz() @ pose[:3, :3].T + pose[:3, 3]
        low, high = world.min(0), world.max(0)
        quaternion = scene.data.body(f"object_{index}").xquat
        objects.append(
            {
                "name": item.model.name,
                "position_m": _rounded(pose[:3, 3]),
                "quaternion_wxyz": _rounded(quaternion),
                "centre_m": _rounded((low + high) / 2),
                "size_m": _rounded(high - low),
                "scale": round(item.scale, 6),
                "variant": item.variant,
                "mass_kg": round(item.model.mass_kg, 6),
            }
        )
    _, classes = _classes(scene)
    return {
        "depth_scale": DEPTH_SCALE,
        "depth_encoding": "plain",
        "up": [0, 0, 1],
        "label_ids": {str(index + 1): name for index, name in enumerate(classes)},
        "world": {
            "generator": GENERATOR,
            "seed": options.seed,
            "options": options_json(options),
            "objects": objects,
        },
    }


def options_json(options: WorldOptions) -> dict[str, Any]:
    """Options as they read after a trip through JSON."""
    return json.loads(json.dumps(asdict(options)))


def _build(options: WorldOptions) -> Scene:
    random = np.random.default_rng((options.seed, 0))
    pool = options.pool()
    drawn = sorted(random.permutation(len(pool))[: options.count()].tolist())
    placed = place_objects(
        [pool[index] for index in drawn],
        seed=options.seed,
        scale_jitter=options.scale_jitter,
        repaint=options.repaint,
    )
    return make_scene(make_room(options.seed), placed, hw=options.hw)


def _classes(scene: Scene) -> tuple[Int[Ints, " O"], list[str]]:
    """Class of every owner, and the class names: the room's, then each object's once."""
    names = [surface.class_name for surface in scene.room]
    names += [item.model.name for item in scene.placed]
    classes = list(dict.fromkeys((*ROOM_CLASSES, *names)))
    return np.array([classes.index(name) for name in names], np.int64), classes


def _draw(scene: Scene, options: WorldOptions) -> Iterator[View]:
    spheres: list[list[float]] = []
    for index, item in enumerate(scene.placed):
        pose = object_pose(scene, index)
        world = item.model.xyz() @ pose[:3, :3].T + pose[:3, 3]
        centre = (world.min(0) + world.max(0)) / 2
        reach = float(np.linalg.norm(world - centre, axis=1).max())
        spheres.append([*centre.tolist(), reach + _CLEARANCE_M])
    poses = camera_path(
        options.path, options.num_views, seed=options.seed, keep_clear=np.array(spheres)
    )
    with ViewRenderer(scene, options.hw) as renderer:
        for pose in poses:
            yield renderer.draw(pose)


def _write_view(
    folder: Path, number: int, view: View, class_of: Int[Ints, " O"], options: WorldOptions
) -> None:
    depth_m = view.depth_m.astype(np.float64)
    if options.depth_noise:
        focal = float(intrinsics(options.hw)[0, 0])
        depth_m = noisy_depth(depth_m, focal, np.random.default_rng((options.seed, 5, number)))
    labels = np.where(view.owner < 0, 0, class_of[view.owner] + 1).astype(np.uint8)
    name = f"{number:06d}"
    _write_png(folder / "color" / f"{name}.png", view.rgb)
    _write_png(folder / "depth" / f"{name}.png", _millimetres(depth_m))
    _write_png(folder / "label" / f"{name}.png", labels)
    (folder / "pose").mkdir(exist_ok=True)
    np.savetxt(folder / "pose" / f"{name}.txt", view.T_world_cam, fmt="%.9g")


def _write_points(folder: Path, points: SurfacePoints, class_of: Int[Ints, " O"]) -> None:
    cloud = Points(
        xyz=torch.from_numpy(points.xyz).float(),
        offsets=torch.tensor([0, len(points.xyz)]),
        rgb=torch.from_numpy(points.rgb).float() / 255,
        normals=torch.from_numpy(points.normals).float(),
    )
    write_points(folder / "points.ply", cloud)
    np.save(folder / "labels.npy", class_of[points.owner].astype(np.int32))


def _millimetres(depth_m: Float[Reals, "H W"]) -> UInt16[NDArray[np.uint16], "H W"]:
    # 65535 means no reading at the door, like 0.
    return np.clip(np.round(depth_m * DEPTH_SCALE), 0, 65534).astype(np.uint16)


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=_COMPRESSION)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 6) for value in values]
