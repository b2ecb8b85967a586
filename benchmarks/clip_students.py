"""Students of recordings on one core: a window at a time, as a live sensor gives them.

Ours: the ONNX file that `export_clip_student` writes, in ONNX Runtime on one thread. Peer: the same
weights in torch on one thread. Sound is charged from the samples of a window on, spectrogram
included; motion and skeletons from readings at one rate. `error` is the largest difference between
the rows of both.

The first setting is the smallest student of sound; suffixes name the others. `window_ms` is what
our arm takes for a window, `real_time` that as a part of the window's length: below 1 it keeps up.
`parameters` counts trained numbers with 1024 columns for sound (YAMNet's width), one for a depth
map and 128 for the others; `file_mb` is the size of the ONNX file, with the matrix of the Fourier
transform where sound comes in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Case, Number, interleave, main, need
from detectors.clip_student import num_parameters

# One after the other, as many as make a time that the clock can tell.
_WINDOWS = 10


def student(op: str, size: str) -> Any:
    """The op of a student with the settings that the benchmark gives it."""
    from xmodal.edges import op_class

    settings: dict[str, Any] = {"size": size}
    if op == "grid_decoder":
        settings |= {"mics": 2, "phase": True, "grid_hw": (16, 32)}
    return op_class("encode", op)(**settings)


def build(op: str, size: str) -> Case:
    """A student with random weights, in torch and as a file in ONNX Runtime."""
    runtime = need("onnxruntime", "pip install 'xmodal[embedded]'")
    from xmodal.edges.encode.audio_student import AudioStudentOp
    from xmodal.runs.onnx_export import export_clip_student

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = student(op, size)
    sound = isinstance(made, AudioStudentOp)
    channels = 1 if op == "grid_decoder" else 1024 if sound else 128
    net = made.build(channels=channels).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = export_clip_student(net, made, Path(folder) / "student.onnx")
        file_mb = file.path.stat().st_size / 2**20
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(
            str(file.path), options, providers=["CPUExecutionProvider"]
        )
    generator = torch.Generator().manual_seed(1)
    windows = torch.randn(_WINDOWS, *file.in_shape, generator=generator) * (0.1 if sound else 1.0)
    if not sound:
        windows[:, -1] = 1.0
    described: Callable[[Tensor], Tensor] = made.inputs_of if sound else lambda part: part

    def ours() -> list[np.ndarray]:
        return [session.run(None, {"windows": part.numpy()})[0] for part in windows.split(1)]

    @torch.no_grad()
    def peer() -> list[Tensor]:
        return [net(described(part)) for part in windows.split(1)]

    def error() -> float:
        pairs = zip(ours(), peer(), strict=True)
        return max(float(np.abs(a - b.numpy()).max()) for a, b in pairs)

    def extra() -> dict[str, Number]:
        window_s = interleave(ours, peer)[0] / _WINDOWS
        return {
            "parameters": num_parameters(net),
            "file_mb": file_mb,
            "window_ms": 1000 * window_s,
            "real_time": window_s / made.window_s,
        }

    return Case(ours=ours, peer=peer, error=error, extra=extra)


SETTINGS: dict[str, dict[str, str]] = {
    "": {"op": "audio_cnn", "size": "micro"},
    "_audio_tiny": {"op": "audio_cnn", "size": "tiny"},
    "_audio_small": {"op": "audio_cnn", "size": "small"},
    "_audio_base": {"op": "audio_cnn", "size": "base"},
    "_spectrogram_tiny": {"op": "audio_transformer", "size": "tiny"},
    "_grids_tiny": {"op": "grid_decoder", "size": "tiny"},
    "_imu_micro": {"op": "imu_tcn", "size": "micro"},
    "_imu_tiny": {"op": "imu_tcn", "size": "tiny"},
    "_imu_patches_tiny": {"op": "imu_transformer", "size": "tiny"},
    "_skeleton_tiny": {"op": "skeleton_net", "size": "tiny"},
}

BENCHMARK = Benchmark(
    name="clip_students",
    build=build,
    settings=SETTINGS,
    warm={"op": "imu_tcn", "size": "micro"},
    note=f"{_WINDOWS} windows one after the other, one thread",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
