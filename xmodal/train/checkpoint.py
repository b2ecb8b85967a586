"""Checkpoints: a folder with `tensors.safetensors` and `manifest.json`, never a pickle.

The manifest says what every tensor is and its SHA-256, so that a damaged or foreign checkpoint is
refused with the name of the tensor that is wrong. A checkpoint folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from xmodal.atomic import atomic_folder, remove_folder, remove_leftovers
from xmodal.errors import CheckpointError, DataError

SCHEMA = 2
# Schema 1 has the same files, and a `meta` that runs cannot go on from.
_READABLE = (1, SCHEMA)
_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"
_NAME = re.compile(r"^step-(\d{8})$")
# A manifest lists names and hashes; one larger than this is not ours.
_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        tensors: All tensors by name, on the CPU.
        meta: Whatever the writer recorded beside them, as JSON.
        path: Folder it was read from.
        schema: Version of the format that it was written in.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path
    schema: int = SCHEMA


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first; whether they are whole is seen when they are read."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name) and path.is_dir())


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        path: The folder; an older one of the same name is replaced.
        tensors: Tensors by name, on any device.
        meta: JSON values to keep beside them.

    Raises:
        CheckpointError: If it cannot be written; what was there before is intact.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain)
    manifest = {
        "schema": SCHEMA,
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "tensors": {
            name: {**entry, "sha256": hashlib.sha256(data[begin:end]).hexdigest()}
            for name, entry, begin, end in _layout(data)
        },
        "meta": dict(meta),
    }
    manifest["manifest_sha256"] = _digest(manifest)
    try:
        with atomic_folder(path) as temporary:
            (temporary / _TENSORS).write_bytes(data)
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False))
    except DataError as error:
        raise CheckpointError(
            error.where,
            wanted=f"to write a checkpoint of {len(data)} bytes",
            got=error.got,
            fix=f"{error.fix}; earlier checkpoints are intact",
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises:
        CheckpointError: If it is missing, cut, changed, or of another schema; the message names the
            tensor at fault where there is one.
    """
    manifest = _read_manifest(path)
    file = path / _TENSORS
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _damaged(str(file), "the tensors of the checkpoint", error.strerror or "") from error
    listed: dict[str, dict[str, Any]] = manifest["tensors"]
    if hashlib.sha256(data).hexdigest() != manifest["file_sha256"]:
        raise _locate_damage(file, data, listed)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _damaged(str(file), "a safetensors file", str(error)) from error
    if different := sorted(tensors.keys() ^ listed.keys()):
        raise _damaged(f"{file}: tensor {different[0]}", "the same names as in the manifest", "not")
    return Checkpoint(tensors, manifest["meta"], path, manifest["schema"])


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what dead writers left behind."""
    remove_leftovers(folder)
    for path in checkpoints(folder)[:-keep]:
        remove_folder(path)


def fit_state(module: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Copy the tensors named `prefix/...` into a module, after checking that they fit exactly.

    Raises:
        CheckpointError: If a tensor is missing or left over, or has another shape or dtype. The
            module is unchanged then.
    """
    wanted: dict[str, Tensor] = module.state_dict()
    given = {
        name.removeprefix(f"{prefix}/"): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(f"{prefix}/")
    }
    for name in sorted(wanted.keys() | given.keys()):
        where = f"{checkpoint.path}: tensor {prefix}/{name}"
        if name not in given:
            raise _misfit(where, f"a tensor {_describe(wanted[name])}", "no such tensor")
        if name not in wanted:
            raise _misfit(where, "no such tensor", f"a tensor {_describe(given[name])}")
        if _describe(wanted[name]) != _describe(given[name]):
            raise _misfit(where, _describe(wanted[name]), _describe(given[name]))
    module.load_state_dict(given)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _layout(data: bytes) -> list[tuple[str, dict[str, Any], int, int]]:
    """Name, dtype and shape, and byte range in the file of every tensor of safetensors bytes."""
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    begin = 8 + size
    return [
        (
            name,
            {
                "dtype": entry["dtype"],
                "shape": entry["shape"],
                "bytes": [begin + entry["data_offsets"][0], begin + entry["data_offsets"][1]],
            },
            begin + entry["data_offsets"][0],
            begin + entry["data_offsets"][1],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    if path.is_file():
        raise _damaged(
            str(path),
            "a checkpoint folder with tensors.safetensors and manifest.json",
            "a file; pickled checkpoints are never opened, because they can run code",
        )
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _damaged(str(file), "a manifest", f"{file.stat().st_size} bytes")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(str(file), "the manifest of a checkpoint", error.strerror or "") from error
    except ValueError as error:
        raise _damaged(str(file), "JSON", str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("schema") not in _READABLE:
        got = manifest.get("schema") if isinstance(manifest, dict) else "no schema"
        raise _damaged(str(file), f"a checkpoint of schema {SCHEMA} or older", f"schema {got}")
    if manifest.get("manifest_sha256") != _digest(manifest):
        raise _damaged(str(file), "the manifest that was written", "a changed one (SHA-256)")
    return manifest


def _locate_damage(
    file: Path, data: bytes, listed: Mapping[str, Mapping[str, Any]]
) -> CheckpointError:
    for name, entry in sorted(listed.items(), key=lambda item: item[1]["bytes"][0]):
        begin, end = entry["bytes"]
        if end > len(data):
            got = f"the file ends at byte {len(data)}, the tensor at {end}"
            return _damaged(f"{file}: tensor {name}", "the whole tensor", got)
        if hashlib.sha256(data[begin:end]).hexdigest() != entry["sha256"]:
            got = f"changed bytes in [{begin}, {end})"
            return _damaged(f"{file}: tensor {name}", f"SHA-256 {entry['sha256'][:12]}...", got)
    return _damaged(str(file), "the file that was written", "a changed header or bytes at the end")


def _damaged(where: str, wanted: str, got: str) -> CheckpointError:
    return CheckpointError(
        where,
        wanted=wanted,
        got=got,
        fix="use an earlier checkpoint (`--resume auto`), or train again",
    )


def _misfit(where: str, wanted: str, got: str) -> CheckpointError:
    return CheckpointError(
        where,
        wanted=wanted,
        got=got,
        fix="use the graph that the checkpoint was trained with (graph.yaml beside it)",
    )
