"""`xmodal doctor`: the environment, and for each thing that is missing the line that mends it."""

from __future__ import annotations

import os
import platform
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_BASE = (
    "torch", "numpy", "numba", "pillow", "scipy", "safetensors", "pydantic", "pyyaml", "typer",
    "rich", "plyfile", "jaxtyping",
)  # fmt: skip
_EXTRAS = {
    "embedded": ("timm", "torchvision", "tokenizers", "mobilesam-mirror",
                 "efficientnet-lite-pytorch", "onnx", "onnxruntime", "mujoco", "matplotlib"),
    "teachers": ("open_clip_torch", "timm", "torchvision", "segment-anything"),
    "audio": ("soundfile", "av", "ai-edge-litert"),
    "rooms": ("pyroomacoustics", "soundfile"),
    "scatter": ("torch-scatter",),
    "cuda": ("gsplat", "spconv-cu126", "triton"),
    "open3d": ("open3d-cpu",),
    "nuscenes": ("nuscenes-devkit",),
}  # fmt: skip
_APT = "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what it is, how it stands, and what mends it when it is missing."""

    topic: str
    state: str
    fix: str = ""


def report() -> str:
    """The whole report as text."""
    findings = [*_system(), *_packages(), *_backends(), *_weights()]
    width = max(len(f.topic) for f in findings)
    lines = [f"xmodal {_installed('xmodal') or 'from source'}"]
    for found in findings:
        lines.append(f"  {found.topic:<{width}}  {found.state}")
        if found.fix:
            lines.append(f"  {'':<{width}}  -> {found.fix}")
    return "\n".join(lines)


def _system() -> list[Finding]:
    import torch

    cuda = "none" if not torch.cuda.is_available() else torch.cuda.get_device_name()
    egl = find_library("EGL")
    return [
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", f"{os.cpu_count()}, torch threads {torch.get_num_threads()}"),
        Finding("cuda device", cuda),
        Finding(
            "headless OpenGL",
            egl or "missing: the demo world cannot be rendered",
            "" if egl else f"sudo apt-get install {_APT}",
        ),
    ]


def _packages() -> list[Finding]:
    missing = [name for name in _BASE if _installed(name) is None]
    found = [
        Finding(
            "base",
            f"torch {_installed('torch')}, numpy {_installed('numpy')}, {len(_BASE)} packages"
            if not missing
            else f"missing: {', '.join(missing)}",
            "" if not missing else "pip install -c constraints.txt xmodal",
        )
    ]
    for extra, names in _EXTRAS.items():
        absent = [name for name in names if _installed(name) is None]
        state = "installed" if not absent else f"not installed: {', '.join(absent)}"
        fix = f"pip install -c constraints.txt 'xmodal[{extra}]'" if absent else ""
        found.append(Finding(f"[{extra}]", state, fix))
    return found


def _backends() -> list[Finding]:
    from detectors.backends import available_backends as for_students
    from lifting.backends import available_backends

    return [
        Finding(f"backend {name}", "available" if reason is None else reason)
        for name, reason in (available_backends() | for_students()).items()
    ]


def _weights() -> list[Finding]:
    from xmodal.errors import XmodalError
    from xmodal.teachers.weights import PACKAGED_FILES
    from xmodal.teachers.yamnet_files import CLASS_MAP, NETWORK

    found: list[Finding] = []
    for file in PACKAGED_FILES:
        topic = f"weights {Path(file.path).name}"
        try:
            file.locate()
        except XmodalError as error:
            found.append(Finding(topic, error.got, error.fix))
        else:
            found.append(Finding(topic, f"{file.package} {file.version}, sha256 as tested"))
    for local in (NETWORK, CLASS_MAP):
        topic = f"weights {local.name}"
        try:
            path = local.locate()
        except XmodalError as error:
            found.append(Finding(topic, error.got, error.fix))
        else:
            found.append(Finding(topic, f"{path.parent}, sha256 as tested"))
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
