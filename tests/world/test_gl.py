import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
{before}
from pathlib import Path
from xmodal.errors import XmodalError
from xmodal.world import WorldOptions, make_world
try:
    make_world(Path({out!r}), WorldOptions(objects=("bagel",), num_views=1, hw=(48, 64)))
except XmodalError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def run(tmp_path, *, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(before=before, out=str(tmp_path / "world"))
    base = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=base | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        # PyOpenGL refuses to load EGL when it was told to be OSMesa: as if libegl1 were missing.
        {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"},
        {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"},
    ],
)
def test_opengl_that_does_not_load_is_exit_5_and_names_the_packages(tmp_path, environment):
    done = run(tmp_path, **environment)
    assert done.returncode == 5, done.stderr
    assert "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri" in done.stdout
    assert environment["MUJOCO_GL"] in done.stdout
    assert not any(tmp_path.iterdir())


def test_missing_mujoco_is_exit_5_and_names_the_extra(tmp_path):
    done = run(tmp_path, before="sys.modules['mujoco'] = None")
    assert done.returncode == 5, done.stderr
    assert "xmodal[embedded]" in done.stdout


def test_the_users_environment_is_left_alone(tmp_path):
    after = "import atexit, os; atexit.register(lambda: print(os.environ.get('MUJOCO_GL')))"
    done = run(tmp_path, before=after)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"
    assert (tmp_path / "world" / "scene.json").exists()


def test_importing_the_package_loads_no_mujoco():
    code = "import sys, xmodal.world; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
