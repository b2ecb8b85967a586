"""Students of recordings as ONNX files, compared with torch before they are handed out."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.sound_chain import SoundChain
from xmodal.atomic import atomic_path
from xmodal.edges.encode.audio_student import COHERENCE_FLOOR, AudioStudentOp
from xmodal.errors import BackendError
from xmodal.teachers.weights import need

_OPSET = 17
# Rows of both runtimes differ by rounding, a few 1e-6; more means that an operation differs.
_MOST_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A student that was written.

    Attributes:
        path: The file. It has one input, `windows`, and one output, `rows`; any number of windows.
        takes: `samples`: windows of sound, [windows, mics, samples] at `rate_hz` of the op.
            `inputs`: what the op's `describe` gives.
        in_shape: Shape of one window.
        largest_error: Largest difference to torch's rows on windows of noise, tones and silence.
    """

    path: Path
    takes: Literal["samples", "inputs"]
    in_shape: tuple[int, ...]
    largest_error: float


def export_clip_student(net: nn.Module, op: Any, path: Path) -> OnnxFile:
    """Write a student of recordings as ONNX, and compare what the file gives with torch.

    A student of sound is written from the samples on, with its spectrogram; others from the inputs
    that `describe` gives, as their clocks have to be brought to one rate first. The op's settings
    are kept in the file (`op`, as JSON).

    Args:
        net: The student, as its op builds it; it is left as it was.
        op: Its op.
        path: The file to write.

    Raises:
        BackendError: If onnx or ONNX Runtime are not installed, or the file gives other rows.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise need(package, "embedded")
    frozen = copy.deepcopy(net).cpu().eval()
    if isinstance(op, AudioStudentOp):
        chain: nn.Module = SoundChain(
            frozen,
            op.spectra(),
            op.num_samples,
            coherence_floor=COHERENCE_FLOOR if op.phase else None,
        ).eval()
        takes, windows = "samples", _sounds(op)
        wanted = _rows(frozen, op.inputs_of(windows))
    else:
        shape: tuple[int, ...] = getattr(net, "in_shape")  # noqa: B009 - not of every module
        chain, takes, windows = frozen, "inputs", _inputs(shape)
        wanted = _rows(frozen, windows)
    with atomic_path(path) as temporary:
        _write(chain, windows, temporary, {"op": json.dumps(asdict(op)), "takes": takes})
        error = max(_error(temporary, windows, wanted), _error(temporary, windows[:1], wanted[:1]))
        if not error < _MOST_ERROR:
            raise BackendError(
                f"student exported to {path}",
                wanted=f"the rows that torch gives, to {_MOST_ERROR:g}",
                got=f"a difference of {error:.3g}",
                fix="report it with the versions that `xmodal doctor` prints",
            )
    return OnnxFile(path=path, takes=takes, in_shape=tuple(windows.shape[1:]), largest_error=error)


def _sounds(op: AudioStudentOp) -> Tensor:
    """Noise, a rising tone under noise, and silence."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, op.mics, op.num_samples, generator=generator)
    time_s = torch.arange(op.num_samples, dtype=torch.float64) / op.rate_hz
    tone = (300.0 * (1 + time_s) * time_s * (2 * torch.pi)).sin().float()
    loud = torch.tensor([0.1, 0.003, 0.0])[:, None, None]
    return noise * loud + torch.tensor([0.0, 0.5, 0.0])[:, None, None] * tone


def _inputs(shape: tuple[int, ...]) -> Tensor:
    """Noise with readings everywhere, with some missing, and with none; marks come last."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(3, *shape, generator=generator)
    marks = torch.ones(3, *shape[1:])
    marks[1] = (torch.rand(shape[1:], generator=generator) > 0.3).float()
    marks[2] = 0
    windows[:, -1] = 1.0
    return windows * marks[:, None]


@torch.no_grad()
def _rows(net: nn.Module, inputs: Float[Tensor, "B ..."]) -> Tensor:
    return net(inputs)


def _write(module: nn.Module, windows: Tensor, path: Path, notes: dict[str, str]) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter is deprecated, but the new one needs onnxscript; and it warns
        # about every shape that becomes a constant, which is what is wanted here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (windows,),
            str(path),
            input_names=["windows"],
            output_names=["rows"],
            dynamic_axes={"windows": {0: "n"}, "rows": {0: "n"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    import onnx

    model: Any = onnx.load(str(path))
    for key, value in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))


def _error(path: Path, windows: Tensor, wanted: Tensor) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(["rows"], {"windows": windows.numpy()})[0]
    if found.shape != tuple(wanted.shape) or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted.numpy()).max(initial=0.0))
