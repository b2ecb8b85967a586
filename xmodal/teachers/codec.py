"""Teacher output as bytes: compact, with a checksum, read back without pickle.

Rows are stored as float16 and read as float32: a relative error of at most 2**-11 (0.05 %), and at
most 3e-8 for numbers below 6e-5. Rows with a magnitude that float16 cannot hold are stored as
float32. Masks are run lengths. A frame of 60 masks with 1000 classes takes about 0.3 MB.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xmodal.errors import DataError
from xmodal.teachers.membership import membership_from_runs, runs_of
from xmodal.values import FeatureMap, Image, Masks

_FORMAT = "xmodal-teacher/1"
_FLOAT16_MAX = 65504.0


class DamagedError(Exception):
    """Stored teacher output that does not match its checksum; it is computed again."""


def to_bytes(value: FeatureMap | Masks) -> bytes:
    """Store everything but the camera and the name, which come with the image.

    Raises:
        DataError: If a row is not finite.
    """
    if not bool(torch.isfinite(value.rows).all() & torch.isfinite(value.weight).all()):
        raise DataError(
            f"teacher output for frame {value.name}",
            wanted="finite features",
            got="NaN or infinity",
            fix="check the teacher's weights and the image",
        )
    fits = not value.rows.numel() or float(value.rows.abs().max()) <= _FLOAT16_MAX
    tensors = {
        "rows": value.rows.to(torch.float16 if fits else torch.float32).contiguous(),
        "valid": value.valid.contiguous(),
        "weight": value.weight.float().contiguous(),
    }
    kind = "feature_map"
    if isinstance(value, Masks):
        kind = "masks"
        tensors["run_start"], tensors["run_length"] = runs_of(value.membership)
    note = {"format": _FORMAT, "kind": kind, "grid_hw": [int(n) for n in value.grid_hw]}
    # One entry: safetensors writes several in no fixed order, and equal values give equal bytes.
    return save(
        tensors, metadata={"xmodal": json.dumps({**note, "sha256": _digest(tensors, note)})}
    )


def from_bytes(data: bytes, image: Image) -> FeatureMap | Masks:
    """Read what `to_bytes` stored for this image.

    Raises:
        DamagedError: If it is not what was written.
    """
    try:
        tensors, note = load(data), _metadata(data)
        digest = note.pop("sha256", "")
        if note.get("format") != _FORMAT or digest != _digest(tensors, note):
            raise DamagedError("the checksum does not match")
        height, width = note["grid_hw"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(str(error)) from error
    rows = tensors["rows"].float()
    common = {"rows": rows, "valid": tensors["valid"], "weight": tensors["weight"]}
    if note["kind"] == "feature_map":
        return FeatureMap(**common, grid_hw=(height, width), camera=image.camera, name=image.name)
    membership = membership_from_runs(
        tensors["run_start"],
        tensors["run_length"],
        num_masks=rows.shape[0],
        grid_hw=(height, width),
    )
    return Masks(
        **common,
        membership=membership,
        grid_hw=(height, width),
        camera=image.camera,
        name=image.name,
    )


def _metadata(data: bytes) -> dict[str, Any]:
    """The header's metadata; `load` has checked the header already."""
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["xmodal"]))


def _digest(tensors: dict[str, Tensor], note: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
