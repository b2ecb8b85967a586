"""Checkpoint files of other people's networks, read without running code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import CheckpointError

# Names under which training scripts wrap the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pt`, `.pth` or `.bin` file, on the CPU.

    A pickle is read with `weights_only=True`: it may hold tensors, never code.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise missing_checkpoint(path)
    try:
        state: Any = _load(path)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise _error(
            path,
            "a safetensors file, or a torch file of plain tensors",
            f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0],
            "download it again, or convert it to safetensors where you trust it",
        ) from error
    for name in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if _named(state) else {}
    if not tensors:
        raise _error(path, "named tensors", type(state).__name__, "give a checkpoint of weights")
    # DistributedDataParallel puts this in front of every name.
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def missing_checkpoint(path: Path) -> CheckpointError:
    """The error for a checkpoint that does not exist."""
    return _error(path, "a checkpoint file", "no such file", "give the path of a local file")


def load_strictly(net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: Naming the tensors that are missing, left over or of another shape.
    """
    wanted = net.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of the network" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            where,
            wanted=f"the weights of {type(net).__name__}",
            got="; ".join(problems[:5]) + more,
            fix="give the checkpoint that belongs to this model name, or the other way round",
        )
    net.load_state_dict(dict(tensors))


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _named(state: object) -> bool:
    return isinstance(state, Mapping) and all(isinstance(name, str) for name in state)


def _error(path: Path, wanted: str, got: str, fix: str) -> CheckpointError:
    return CheckpointError(str(path), wanted=wanted, got=got, fix=fix)
