"""Students of recordings as ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xmodal.edges.encode.audio_cnn import AudioCnn
from xmodal.edges.encode.audio_transformer import AudioTransformer
from xmodal.edges.encode.grid_decoder import GridDecoderOp
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.edges.encode.imu_transformer import ImuTransformerOp
from xmodal.edges.encode.panorama_net import PanoramaNet
from xmodal.edges.encode.skeleton_net import SkeletonNetOp
from xmodal.errors import BackendError
from xmodal.runs.onnx_export import export_clip_student

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SHORT: dict[str, Any] = {"size": "micro", "window_s": 0.5}


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@torch.no_grad()
def wake(net: nn.Module) -> nn.Module:
    """Blocks that do something, and statistics that are not those of a new network."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        parameter += 0.05 * torch.randn(parameter.shape)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn(buffer.shape)
        if name.endswith("running_var"):
            buffer += torch.rand(buffer.shape)
    return net


@pytest.mark.parametrize(
    ("op", "space"),
    [
        (AudioCnn(**SHORT), "unit"),
        (AudioCnn(**SHORT, mics=2, phase=True, attention=True), "raw"),
        (AudioTransformer(**SHORT), "simplex"),
        (GridDecoderOp(**SHORT, grid_hw=(9, 17), mics=2, phase=True), "simplex"),
        (GridDecoderOp(**SHORT, grid_hw=(8, 8), positive=True), "raw"),
    ],
)
def test_sound_is_taken_from_its_samples_on(op: Any, space: Any, tmp_path: Path) -> None:
    net = wake(op.build(channels=6, space=space))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = export_clip_student(net, op, tmp_path / "student.onnx")
    assert made.takes == "samples"
    assert made.in_shape == (op.mics, 8000)
    assert made.largest_error < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    samples = torch.randn(5, op.mics, 8000, generator=torch.Generator().manual_seed(7)) * 0.05
    (rows,) = session(made.path).run(None, {"windows": samples.numpy()})
    with torch.no_grad():
        expected = net.eval()(op.inputs_of(samples))
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "op", [ImuTcn(size="micro"), ImuTransformerOp(size="micro"), SkeletonNetOp(size="micro")]
)
def test_motion_is_taken_as_described(op: Any, tmp_path: Path) -> None:
    net = wake(op.build(channels=6, space="unit"))
    made = export_clip_student(net, op, tmp_path / "student.onnx")
    assert made.takes == "inputs"
    assert made.in_shape == net.in_shape
    assert made.largest_error < 1e-4
    inputs = torch.randn(2, *made.in_shape)
    inputs[:, -1] = 1.0
    (rows,) = session(made.path).run(None, {"windows": inputs.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(rows, net.eval()(inputs).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_picture_is_taken_as_described(aligned: bool, tmp_path: Path) -> None:
    op = PanoramaNet(size="micro", frame_hw=(32, 64), grid_hw=(8, 16), aligned=aligned)
    net = wake(op.build(channels=4, space="simplex"))
    made = export_clip_student(net, op, tmp_path / "student.onnx")
    assert made.takes == "inputs"
    assert made.in_shape == (3, 32, 64)
    inputs = torch.randn(2, *made.in_shape)
    (rows,) = session(made.path).run(None, {"windows": inputs.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(rows, net.eval()(inputs).numpy(), rtol=1e-3, atol=1e-4)


def test_the_file_knows_its_settings(tmp_path: Path) -> None:
    op = ImuTcn(size="micro", rate_hz=25.0)
    made = export_clip_student(op.build(channels=6), op, tmp_path / "student.onnx")
    kept = session(made.path).get_modelmeta().custom_metadata_map
    assert json.loads(kept["op"])["rate_hz"] == 25.0
    assert kept["takes"] == "inputs"


class _Drifting(nn.Module):
    """Gives other rows each time, as a network whose randomness was left on would."""

    in_shape = (9, 20)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs.mean(dim=2) + self.calls


def test_a_file_with_other_rows_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="the rows that torch gives"):
        export_clip_student(_Drifting(), ImuTcn(), tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_run_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_text("an earlier file")
    with pytest.raises(BackendError):
        export_clip_student(_Drifting(), ImuTcn(), tmp_path / "student.onnx")
    assert (tmp_path / "student.onnx").read_text() == "an earlier file"
