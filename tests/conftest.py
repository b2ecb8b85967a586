"""What several folders of tests share: a small room with exact geometry, and a check of errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmodal.errors import XmodalError
from xmodal.teachers.weights import PACKAGED_FILES

Array = NDArray[np.float64]


@dataclass
class View:
    name: str
    rgb: NDArray[np.uint8]
    depth_m: Array
    T_world_cam: Array


class Room:
    """A box room of 4 x 4 x 2.5 m seen from near its middle; colour is a function of position."""

    low, high = np.array([-2.0, -2.0, 0.0]), np.array([2.0, 2.0, 2.5])

    def __init__(self, num_views: int = 5, hw: tuple[int, int] = (48, 64)) -> None:
        self.hw = hw
        self.K = self.intrinsics(hw)
        self.views = [self.view(i, num_views) for i in range(num_views)]

    @staticmethod
    def intrinsics(hw: tuple[int, int]) -> Array:
        return np.array([[0.9 * hw[1], 0, hw[1] / 2], [0, 0.9 * hw[1], hw[0] / 2], [0, 0, 1.0]])

    def view(self, index: int, num_views: int) -> View:
        yaw = 0.35 * index
        forward = np.array([np.cos(yaw), np.sin(yaw), -0.1])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        T[:3, 3] = [0.1 * index, 0.05, 1.3]
        depth_m, xyz = self.cast(T, self.K, self.hw)
        return View(f"{index:06d}", self.paint(xyz), depth_m, T)

    def cast(self, T: Array, K: Array, hw: tuple[int, int]) -> tuple[Array, Array]:
        v, u = np.mgrid[: hw[0], : hw[1]] + 0.5
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(hw)], -1)
        rays = rays @ T[:3, :3].T
        with np.errstate(divide="ignore"):
            wall = np.where(rays > 0, self.high, self.low)
            depth_m = ((wall - T[:3, 3]) / rays).min(-1)
        return depth_m, T[:3, 3] + rays * depth_m[..., None]

    def paint(self, xyz: Array) -> NDArray[np.uint8]:
        return (
            np.rint(255 * (xyz - self.low) / (self.high - self.low)).clip(0, 255).astype(np.uint8)
        )

    def write(self, root: Path, *, scale: float = 1000.0) -> Path:
        """The posed RGB-D folder."""
        for folder in ("color", "depth", "pose"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for view in self.views:
            Image.fromarray(view.rgb).save(root / "color" / f"{view.name}.png")
            write_depth(root / "depth" / f"{view.name}.png", view.depth_m, scale)
            np.savetxt(root / "pose" / f"{view.name}.txt", view.T_world_cam)
        np.savetxt(root / "intrinsic.txt", self.K)
        return root


def write_depth(path: Path, depth_m: Array, scale: float = 1000.0) -> None:
    Image.fromarray(np.rint(depth_m * scale).astype(np.uint16)).save(path)


@pytest.fixture(scope="session")
def room() -> Room:
    return Room()


@pytest.fixture
def scene_folder(room: Room, tmp_path: Path) -> Path:
    """A posed RGB-D folder of five views, free to be damaged."""
    return room.write(tmp_path / "scan")


@pytest.fixture
def save_depth() -> Callable[..., None]:
    return write_depth


@pytest.fixture
def write_json() -> Callable[[Path, object], None]:
    def write(path: Path, value: object) -> None:
        path.write_text(json.dumps(value))

    return write


@pytest.fixture
def four_parts() -> Callable[[BaseException, int], None]:
    """Check that an error is a typed one with four filled parts and the right exit code."""

    def check(error: BaseException, exit_code: int = 3) -> None:
        assert isinstance(error, XmodalError), repr(error)
        assert error.exit_code == exit_code
        for part in (error.where, error.wanted, error.got, error.fix):
            assert part.strip()
            assert part in str(error)

    return check


@pytest.fixture(scope="session")
def packaged_weights() -> None:
    for file in PACKAGED_FILES:
        try:
            metadata.distribution(file.package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{file.package} is not installed (constraints-weights.txt)")


def load_module(name: str, path: str) -> ModuleType:
    """A module of helpers that several folders of tests share."""
    spec = spec_from_file_location(name, Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """Small scenes and students for tests of training: `tests/train/toy.py`."""
    return load_module("toy", "train/toy.py")


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Small recordings, in memory and in files: `tests/recordings/synthetic.py`."""
    return load_module("synthetic", "recordings/synthetic.py")


@pytest.fixture(scope="session")
def media() -> ModuleType:
    """Sounds, films and inertial readings in files: `tests/recordings/media.py`."""
    return load_module("media", "recordings/media.py")


@pytest.fixture(scope="session")
def colmap() -> ModuleType:
    """A writer of COLMAP models: `tests/datasets/colmap_model.py`."""
    return load_module("colmap_model", "datasets/colmap_model.py")


class Nursery:
    """Processes that run jobs of `tests/train/nursery.py`, free to be killed."""

    def __init__(self) -> None:
        program = Path(__file__).parent / "train" / "nursery.py"
        command = [sys.executable, str(program)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def start(self, job: str, out: Path, *args: object) -> int:
        """The process id of a new process that does a job."""
        return self._ask({"job": job, "out": str(out), "args": args})

    def wait(self, pid: int) -> int:
        """The exit code of a process; minus the signal that killed it."""
        return self._ask({"wait": pid})

    def _ask(self, request: dict[str, object]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    with made.process:
        yield made
        assert made.process.stdin is not None
        made.process.stdin.close()
