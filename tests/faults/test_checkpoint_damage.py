"""Damaged and foreign checkpoints (fault matrix rows 35 and 36): the message names the tensor."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmodal.errors import CheckpointError
from xmodal.train.checkpoint import load_checkpoint, save_checkpoint

NAMES = ("net/bias", "net/weight", "optimiser/net/weight/exp_avg", "rng/torch")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {name: torch.randn(5, 3 + i) for i, name in enumerate(NAMES)}
    save_checkpoint(tmp_path / "c", tensors, {"step": 1})
    return tmp_path / "c"


def layout(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())["tensors"]


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("name", NAMES)
def test_one_flipped_bit_names_its_tensor(path: Path, name: str) -> None:
    begin, end = layout(path)[name]["bytes"]
    flip(path / "tensors.safetensors", (begin + end) // 2)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.where.endswith(f"tensor {name}")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_file_names_the_first_tensor_that_is_not_whole(path: Path, name: str) -> None:
    _, end = layout(path)[name]["bytes"]
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[: end - 1])
    with pytest.raises(CheckpointError, match="the file ends at byte") as caught:
        load_checkpoint(path)
    assert caught.value.where.endswith(f"tensor {name}")


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_flip_anywhere_in_either_file_is_found(path: Path, where: float) -> None:
    for file in (path / "tensors.safetensors", path / "manifest.json"):
        whole = file.read_bytes()
        flip(file, int(where * len(whole)))
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        file.write_bytes(whole)
    load_checkpoint(path)


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_anywhere_in_either_file_is_found(path: Path, sixteenth: int) -> None:
    for file in (path / "tensors.safetensors", path / "manifest.json"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) * sixteenth // 16])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        file.write_bytes(whole)


def test_bytes_at_the_end_are_found(path: Path) -> None:
    with (path / "tensors.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="bytes at the end"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_manifest_with_another_hash_of_a_tensor_is_refused(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tensors"]["net/bias"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="changed one"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"schema": 1}', "\x80"])
def test_a_manifest_that_is_none_is_refused(path: Path, text: str) -> None:
    (path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


class _Evil:
    """Runs code when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_a_pickled_checkpoint_is_refused_without_running_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Evil(marker)))
    with pytest.raises(CheckpointError, match="never opened"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_pickle_in_place_of_the_tensors_is_refused(path: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (path / "tensors.safetensors").write_bytes(pickle.dumps(_Evil(marker)))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not marker.exists()
