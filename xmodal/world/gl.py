"""Which OpenGL draws the world: EGL or OSMesa, chosen without touching the user's environment."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

from xmodal.errors import BackendError

_PACKAGES = "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
_FIX = (
    f"apt-get install -y {_PACKAGES} (draws on the CPU where there is no GPU), "
    "or install libosmesa6 and set MUJOCO_GL=osmesa"
)
# What a missing or half-installed OpenGL raises inside PyOpenGL and MuJoCo, found by trying.
_GL_ERRORS = (ImportError, AttributeError, OSError, RuntimeError)


def gl_name() -> str:
    """The OpenGL to draw with: `MUJOCO_GL` when set, else EGL, else OSMesa.

    Raises:
        BackendError: If neither library is there.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in ("egl", "osmesa", "glfw", "cgl", "wgl"):
        return asked
    if sys.platform != "linux":
        return "glfw"
    for name, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        if _loads(library):
            return name
    raise _missing("neither libEGL.so.1 nor libOSMesa.so.8 can be loaded")


def load_mujoco() -> Any:
    """Import MuJoCo so that it draws without a window; `MUJOCO_GL` is left as it was.

    Returns:
        The module.

    Raises:
        BackendError: If MuJoCo is not installed or its OpenGL cannot be loaded.
    """
    name = gl_name()
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = name
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        raise BackendError(
            "MuJoCo",
            wanted="the mujoco package, which settles and draws the world",
            got=str(error),
            fix="pip install 'xmodal[embedded]'",
        ) from error
    except _GL_ERRORS as error:
        raise _missing(f"MUJOCO_GL={name}: {error}") from error
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


def open_context(width: int, height: int) -> Any:
    """Open an OpenGL context of our own (not the one MuJoCo's import chose).

    Returns:
        An object of MuJoCo's: `make_current()`, `free()`.

    Raises:
        BackendError: If the library loads but no driver answers.
    """
    name = gl_name()
    try:
        return importlib.import_module(f"mujoco.{name}").GLContext(width, height)
    except _GL_ERRORS as error:
        raise _missing(f"MUJOCO_GL={name}: {error}") from error


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _missing(got: str) -> BackendError:
    return BackendError(
        "drawing the table-top world",
        wanted="OpenGL without a window (EGL or OSMesa)",
        got=got,
        fix=_FIX,
    )
