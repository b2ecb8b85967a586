"""A world in MuJoCo: built from meshes in memory, settled by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull

from xmodal.world.gl import load_mujoco
from xmodal.world.layout import Placed
from xmodal.world.meshes import Ints, Reals
from xmodal.world.models import Ball, Capsule, Hull, Part, Solid
from xmodal.world.room import ROOM_HALF_M, TABLE_SIZE_M, TABLE_THICKNESS_M, TABLE_TOP_M, Surface
from xmodal.world.view import FOV_Y_RAD

# MuJoCo's binary module carries no types, so its objects are `Any`: a `Model` is an `MjModel`, a
# `Data` an `MjData`, a `Spec` an `MjSpec`.
mujoco: Any = load_mujoco()
Model: TypeAlias = Any
Data: TypeAlias = Any
Spec: TypeAlias = Any

CAMERA = "view"
# Colour is drawn at this many times the size and averaged.
SUPERSAMPLE = 2
# Groups: 1 is drawn, 3 collides and is hidden.
SEEN_GROUP, SOLID_GROUP = 1, 3
_TIMESTEP_S = 0.002
_MIN_SETTLE_S, _MAX_SETTLE_S = 0.6, 6.0
# At rest: no joint faster than this (m/s or rad/s) for a quarter of a second.
_REST_SPEED, _REST_S = 0.01, 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A compiled world and which geometry belongs to what.

    Attributes:
        model: The MuJoCo model.
        data: Its state.
        room: Surfaces of the room.
        placed: The objects, in order.
        owner: For every MuJoCo geom, -1 or an index into `room` followed by `placed`.
    """

    model: Model
    data: Data
    room: tuple[Surface, ...]
    placed: tuple[Placed, ...]
    owner: Int[Ints, " G"]


def build_spec(room: Sequence[Surface], placed: Sequence[Placed], *, hw: tuple[int, int]) -> Spec:
    """Describe a world; a robot can be attached to the spec before it is compiled.

    Args:
        room: Fixed surfaces in the world frame.
        placed: Objects, each a free body named `object_K`.
        hw: Size of the views that will be drawn, pixels.
    """
    spec = mujoco.MjSpec()
    _set_options(spec, hw)
    _add_lights(spec)
    spec.worldbody.add_camera(name=CAMERA, fovy=float(np.degrees(FOV_Y_RAD)))
    for index, surface in enumerate(room):
        _add_part(spec, spec.worldbody, f"room_{index}", surface.part)
    _add_room_solids(spec)
    for index, item in enumerate(placed):
        half = item.yaw_rad / 2
        body = spec.worldbody.add_body(
            name=f"object_{index}", pos=item.xyz, quat=[np.cos(half), 0, 0, np.sin(half)]
        )
        body.add_freejoint()
        for number, part in enumerate(item.model.parts):
            _add_part(spec, body, f"object_{index}_{number}", part)
        share = _shares(item.model.solids)
        for number, solid in enumerate(item.model.solids):
            name = f"object_{index}_solid_{number}"
            mass_kg = float(item.model.mass_kg * share[number])
            _add_solid(spec, body, name, solid, mass_kg=mass_kg, rolls=item.model.rolls)
    return spec


def make_scene(room: Sequence[Surface], placed: Sequence[Placed], *, hw: tuple[int, int]) -> Scene:
    """Compile a world and let its objects come to rest.

    Args:
        room: Fixed surfaces.
        placed: Objects and where they are dropped.
        hw: Size of the views that will be drawn, pixels.
    """
    model = build_spec(room, placed, hw=hw).compile()
    data = mujoco.MjData(model)
    settle(model, data)
    owner = np.full(model.ngeom, -1, np.int64)
    for geom in range(model.ngeom):
        name = model.geom(geom).name.split("_")
        if model.geom_group[geom] == SEEN_GROUP:
            owner[geom] = int(name[1]) + (len(room) if name[0] == "object" else 0)
    return Scene(model=model, data=data, room=tuple(room), placed=tuple(placed), owner=owner)


def settle(model: Model, data: Data) -> float:
    """Step until nothing moves, or 6 simulated seconds are over.

    Returns:
        Simulated seconds.
    """
    quiet_s = 0.0
    while data.time < _MAX_SETTLE_S and not (quiet_s >= _REST_S and data.time >= _MIN_SETTLE_S):
        mujoco.mj_step(model, data)
        moving = model.nv > 0 and float(np.abs(data.qvel).max()) > _REST_SPEED
        quiet_s = 0.0 if moving else quiet_s + _TIMESTEP_S
    data.qvel[:] = 0
    mujoco.mj_forward(model, data)
    return float(data.time)


def object_pose(scene: Scene, index: int) -> Float[Reals, "4 4"]:
    """`T_world_object` of an object, metres."""
    body = scene.data.body(f"object_{index}")
    pose = np.eye(4)
    pose[:3, :3] = body.xmat.reshape(3, 3)
    pose[:3, 3] = body.xpos
    return pose


def _set_options(spec: Spec, hw: tuple[int, int]) -> None:
    spec.option.timestep = _TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # Lengths below are multiples of the extent; one metre makes them metres.
    spec.stat.extent = 1.0
    spec.stat.center = [0, 0, TABLE_TOP_M]
    visual = spec.visual
    visual.global_.offheight, visual.global_.offwidth = (SUPERSAMPLE * side for side in hw)
    # No multi-sampling: colour is supersampled, depth and labels must not be averaged.
    visual.quality.offsamples = 0
    visual.quality.shadowsize = 4096
    visual.map.znear, visual.map.zfar = 0.02, 20.0
    # Shadows only in the middle third of the light's cone, which holds the table: further out light
    # grazes the floor, and the shadow map speckles it.
    visual.map.shadowscale = 0.32
    visual.headlight.ambient = [0.45, 0.45, 0.45]
    visual.headlight.diffuse = [0.16, 0.16, 0.16]
    visual.headlight.specular = [0, 0, 0]


def _add_lights(spec: Spec) -> None:
    """A warm key light that casts shadows, and a cool fill from the other side."""
    spot, target = mujoco.mjtLightType.mjLIGHT_SPOT, np.array([0, 0, TABLE_TOP_M])
    for position, diffuse, shine in (
        ((0.9, -0.9, 2.8), (0.54, 0.53, 0.50), 0.35),
        ((-1.3, 1.2, 2.5), (0.20, 0.21, 0.24), 0.1),
    ):
        # Inside the room, so that walls throw no shadow; wide and even (exponent 0).
        spec.worldbody.add_light(
            type=spot, pos=position, dir=target - position, cutoff=80, exponent=0,
            diffuse=diffuse, specular=[shine] * 3, ambient=[0, 0, 0],
            castshadow=shine > 0.2,
        )  # fmt: skip


def _add_part(spec: Spec, body: Any, name: str, part: Part) -> None:
    """Add a textured surface that is seen but neither collides nor weighs anything."""
    height, width = part.texture.shape[:2]
    texture = spec.add_texture(
        name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3
    )
    # MuJoCo's first row is v = 0, an image's first row is its top.
    texture.data = np.ascontiguousarray(part.texture[::-1]).tobytes()
    material = spec.add_material(name=name, specular=part.shine, shininess=0.35, emission=part.glow)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    mesh = part.mesh
    faces = mesh.faces.astype(np.int32).ravel()
    spec.add_mesh(
        name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        uservert=mesh.xyz.astype(np.float32).ravel(), userface=faces,
        usernormal=mesh.normals.astype(np.float32).ravel(), userfacenormal=faces,
        usertexcoord=mesh.uv.astype(np.float32).ravel(), userfacetexcoord=faces,
    )  # fmt: skip
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name,
        group=SEEN_GROUP, contype=0, conaffinity=0, mass=0,
    )  # fmt: skip


def _add_room_solids(spec: Spec) -> None:
    common = {"group": SOLID_GROUP, "friction": [0.9, 0.01, 0.002]}
    add = spec.worldbody.add_geom
    add(name="solid_floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], **common)
    half = [TABLE_SIZE_M[0] / 2, TABLE_SIZE_M[1] / 2, TABLE_THICKNESS_M / 2]
    centre = [0, 0, TABLE_TOP_M - TABLE_THICKNESS_M / 2]
    add(name="solid_table", type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=centre, **common)
    for k in range(4):
        way = np.array([np.cos(k * np.pi / 2), np.sin(k * np.pi / 2)]).round()
        add(
            name=f"solid_wall_{k}", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1],
            pos=[*(ROOM_HALF_M * way), 0], zaxis=[*(-way), 0], **common,
        )  # fmt: skip


def _add_solid(
    spec: Spec,
    body: Any,
    name: str,
    solid: Solid,
    *,
    mass_kg: float,
    rolls: bool,
) -> None:
    """Add a convex shape that collides and is not seen."""
    common = {
        "name": name, "group": SOLID_GROUP, "mass": mass_kg, "condim": 6 if rolls else 4,
        # Sliding, torsional (m) and rolling (m) friction; the last stops balls within centimetres.
        "friction": [0.9, 0.01, 0.004],
    }  # fmt: skip
    match solid:
        case Ball():
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[solid.radius_m, 0, 0],
                pos=solid.centre, **common,
            )  # fmt: skip
        case Capsule():
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[solid.radius_m, 0, 0],
                fromto=[*solid.start, *solid.end], **common,
            )  # fmt: skip
        case Hull():
            hull = ConvexHull(solid.xyz)
            index = np.full(len(solid.xyz), -1)
            index[hull.vertices] = np.arange(len(hull.vertices))
            spec.add_mesh(
                name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
                uservert=solid.xyz[hull.vertices].astype(np.float32).ravel(),
                userface=_outward(hull, index).astype(np.int32).ravel(),
            )  # fmt: skip
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, **common)


def _outward(hull: ConvexHull, index: Int[Ints, " P"]) -> Int[Ints, "F 3"]:
    """Triangles of a hull among its own vertices, wound so that normals point out."""
    corner = hull.points[hull.simplices]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    wrong = np.einsum("ij,ij->i", normal, hull.equations[:, :3]) < 0
    faces = hull.simplices.copy()
    faces[wrong] = faces[wrong][:, ::-1]
    return index[faces]


def _shares(solids: Sequence[Solid]) -> Float[Reals, " S"]:
    """Volume of each solid as a share of all; overlaps are counted twice, which does no harm."""
    volumes = np.array([_volume(solid) for solid in solids])
    return volumes / volumes.sum()


def _volume(solid: Solid) -> float:
    match solid:
        case Ball():
            return 4 / 3 * np.pi * solid.radius_m**3
        case Capsule():
            length = float(np.linalg.norm(np.subtract(solid.end, solid.start)))
            return np.pi * solid.radius_m**2 * (length + 4 / 3 * solid.radius_m)
        case Hull():
            return float(ConvexHull(solid.xyz).volume)
