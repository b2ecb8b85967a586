"""Frames in a feature store: pixels and cameras beside the teacher's rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lifting.operator import LiftOperator
from xmodal.errors import DataError
from xmodal.store.features import FeatureInfo, open_frames
from xmodal.values import Frames


def frame_info(info: FeatureInfo, frames: Frames) -> FeatureInfo:
    """What a store says of frames."""
    return replace(
        info,
        codec="fp16",
        kind="frames",
        channels=frames.rows.shape[1],
        num_points=len(frames.rows),
        num_valid=int(frames.valid.sum()),
        num_sources=len(frames.rgb),
    )


def frame_arrays(frames: Frames) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a store; rows are kept in half precision, all else as it is."""
    taps = frames.taps
    tensors = {
        "rows": frames.rows,
        "valid": frames.valid,
        "weight": frames.weight,
        "crow": taps.crow,
        "col": taps.col,
        "membership_weight": taps.weight,
        "rgb": frames.rgb,
        "depth_m": frames.depth_m,
        "inside": frames.inside,
        "hw": frames.hw,
        "K": frames.K,
        "T_world_cam": frames.T_world_cam,
        "offsets": frames.offsets,
    }
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def read_frames(folder: Path) -> Frames:
    """Frames of a store, rows in float32, after checking every byte of them.

    Raises:
        DataError: If they are damaged or do not fit together.
    """
    info, arrays, rows = open_frames(folder)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    parts = {name: tensors.pop(name) for name in ("crow", "col", "membership_weight")}
    try:
        taps = LiftOperator(
            crow=parts["crow"],
            col=parts["col"],
            weight=parts["membership_weight"],
            num_sources=info.num_points,
        )
        if int(tensors["hw"].prod(1).sum()) != info.num_sources:
            raise ValueError("sizes of views that do not add up to the pixels")
    except ValueError as error:
        raise DataError(
            str(folder),
            wanted=f"frames of {info.num_sources} pixels",
            got=str(error),
            fix="lift again with --overwrite",
        ) from error
    return Frames(rows=torch.from_numpy(np.asarray(rows)), taps=taps, **tensors)
