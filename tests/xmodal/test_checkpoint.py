"""Checkpoints: what is written is what is read, and misfits are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xmodal.errors import CheckpointError
from xmodal.train.checkpoint import (
    SCHEMA,
    checkpoint_path,
    checkpoints,
    fit_state,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


def net(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.LayerNorm(width))


def saved(path: Path, module: nn.Module, prefix: str = "net") -> Path:
    save_checkpoint(path, {f"{prefix}/{k}": v for k, v in module.state_dict().items()}, {"step": 1})
    return path


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).T,
        torch.randn(2, 2).half(),
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 7),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
    ],
    ids=["float32", "not contiguous", "float16", "scalar", "empty", "uint8", "bool"],
)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_checkpoint(tmp_path / "c", {"a/b": tensor}, {})
    back = load_checkpoint(tmp_path / "c").tensors["a/b"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_what_is_recorded_beside_comes_back(tmp_path: Path) -> None:
    meta: dict[str, Any] = {"step": 3, "rng": {"state": 2**100}, "names": ["a", "ä"], "none": None}
    save_checkpoint(tmp_path / "c", {}, meta)
    assert load_checkpoint(tmp_path / "c").meta == meta


def test_weights_fit_back_into_a_module(tmp_path: Path) -> None:
    first, second = net(), net()
    nn.init.constant_(second[0].weight, 7.0)
    fit_state(second, load_checkpoint(saved(tmp_path / "c", first)), "net")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_writing_again_replaces(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path / "c", {"x": torch.tensor(value)}, {})
    assert load_checkpoint(tmp_path / "c").tensors["x"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        saved(checkpoint_path(tmp_path, step), net())
    (tmp_path / "notes").mkdir()
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020", "step-00000100"]
    assert (tmp_path / "notes").is_dir()


def test_a_folder_that_does_not_exist_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nowhere") == []


def _refused(tmp_path: Path, given: nn.Module, wanted: nn.Module, prefix: str = "net") -> str:
    checkpoint = load_checkpoint(saved(tmp_path / "c", given, prefix))
    before = {name: value.clone() for name, value in wanted.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fit_state(wanted, checkpoint, "net")
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, before[name]), "a refused checkpoint must not change the module"
    return caught.value.where


def test_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    assert _refused(tmp_path, net(3), net(4)).endswith("tensor net/0.bias")


def test_another_dtype_is_refused_by_name(tmp_path: Path) -> None:
    assert _refused(tmp_path, net().double(), net()).endswith("tensor net/0.bias")


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    assert _refused(tmp_path, net()[:1], net()).endswith("tensor net/1.bias")


def test_a_tensor_too_many_is_refused_by_name(tmp_path: Path) -> None:
    assert _refused(tmp_path, net(), net()[:1]).endswith("tensor net/1.bias")


def test_another_prefix_is_a_missing_tensor(tmp_path: Path) -> None:
    assert _refused(tmp_path, net(), net(), "other").endswith("tensor net/0.bias")


def test_a_value_that_is_no_json_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        save_checkpoint(tmp_path / "c", {}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, None, "1"])
def test_another_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = saved(tmp_path / "c", net())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": schema}))
    with pytest.raises(CheckpointError, match=f"schema {SCHEMA}"):
        load_checkpoint(path)
