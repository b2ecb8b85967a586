"""Drawing views: supersampled colour, and depth and labels at exact pixel centres.

Depth and labels are never averaged: the mean of two depths or of two labels is neither.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy.typing import NDArray
from PIL import Image

from xmodal.world.gl import open_context
from xmodal.world.meshes import Ints, Reals
from xmodal.world.scene import CAMERA, SEEN_GROUP, SUPERSAMPLE, Scene, mujoco
from xmodal.world.textures import Bytes
from xmodal.world.view import View

_FLIP = np.diag([1.0, -1.0, -1.0])  # OpenGL cameras look along -z with y up


class ViewRenderer:
    """Draws one scene; use it as a context manager, since OpenGL contexts are scarce."""

    def __init__(self, scene: Scene, hw: tuple[int, int]) -> None:
        """Open a context for `scene`; `hw` is the size it was built for, or smaller."""
        buffer = scene.model.vis.global_
        if SUPERSAMPLE * hw[0] > buffer.offheight or SUPERSAMPLE * hw[1] > buffer.offwidth:
            raise ValueError(f"views of {hw} px exceed the size that the scene was built for")
        self._scene, self._hw = scene, hw
        height, width = (SUPERSAMPLE * size for size in hw)
        self._gl: Any = open_context(width, height)
        self._gl.make_current()
        self._context: Any = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._drawn = mujoco.MjvScene(scene.model, maxgeom=scene.model.ngeom + 100)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[SEEN_GROUP] = 1
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = scene.model.camera(CAMERA).id

    def __enter__(self) -> ViewRenderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context; safe to call twice."""
        if self._gl is not None:
            self._context.free()
            self._gl.free()
            self._gl = None

    def draw(self, T_world_cam: Float[Reals, "4 4"]) -> View:
        """Draw the view of a camera at `T_world_cam` (OpenCV axes)."""
        scene = self._scene
        scene.data.cam_xpos[self._camera.fixedcamid] = T_world_cam[:3, 3]
        scene.data.cam_xmat[self._camera.fixedcamid] = (T_world_cam[:3, :3] @ _FLIP).ravel()
        self._gl.make_current()
        mujoco.mjv_updateScene(
            scene.model, scene.data, self._option, None, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL, self._drawn,
        )  # fmt: skip
        rgb = self._draw_rgb()
        depth_m, owner = self._draw_geometry()
        return View(rgb=rgb, depth_m=depth_m, owner=owner, T_world_cam=T_world_cam)

    def _draw_rgb(self) -> UInt8[Bytes, "H W 3"]:
        height, width = (SUPERSAMPLE * size for size in self._hw)
        area = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(area, self._drawn, self._context)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return np.asarray(Image.fromarray(pixels[::-1]).reduce(SUPERSAMPLE))

    def _draw_geometry(self) -> tuple[Float32[NDArray[np.float32], "H W"], Int[Ints, "H W"]]:
        height, width = self._hw
        area = mujoco.MjrRect(0, 0, width, height)
        codes, buffer = (
            np.empty((height, width, 3), np.uint8),
            np.empty((height, width), np.float32),
        )
        flags = self._drawn.flags
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            flags[flag] = 1
        mujoco.mjr_render(area, self._drawn, self._context)
        mujoco.mjr_readPixels(codes, buffer, area, self._context)
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            flags[flag] = 0
        return self._to_depth(buffer[::-1]), self._to_owner(codes[::-1])

    def _to_depth(
        self, buffer: Float32[NDArray[np.float32], "H W"]
    ) -> Float32[NDArray[np.float32], "H W"]:
        """Turn a reversed depth buffer (1 near, 0 far) into z-depth in metres."""
        model = self._scene.model
        near = model.vis.map.znear * model.stat.extent
        far = model.vis.map.zfar * model.stat.extent
        value = buffer.astype(np.float64)
        depth_m = near * far / (near + value * (far - near))
        depth_m[value <= 0] = 0
        return depth_m.astype(np.float32)

    def _to_owner(self, codes: UInt8[Bytes, "H W 3"]) -> Int[Ints, "H W"]:
        wide = codes.astype(np.int64)
        segment = wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)
        table = np.full(self._drawn.ngeom + 1, -1, np.int64)
        for geom in self._drawn.geoms[: self._drawn.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = self._scene.owner[geom.objid]
        return table[segment]
