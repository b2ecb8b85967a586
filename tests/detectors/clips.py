"""Trunks of every kind at their smallest, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detectors.audio_cnn import AudioCNN
from detectors.clip_student import ClipSize, ClipTrunk
from detectors.imu_tcn import ImuTCN
from detectors.imu_transformer import ImuTransformer
from detectors.panorama_cnn import PanoramaCNN
from detectors.skeleton_net import SkeletonNet
from detectors.spectrogram_transformer import SpectrogramTransformer

# A chain of five joints; the third is the hip.
CHAIN = (1, 2, 2, 2, 3)

TRUNKS: dict[str, Callable[[ClipSize], ClipTrunk]] = {
    "audio_cnn": lambda size: AudioCNN(2, 32, 40, size),
    "audio_attention": lambda size: AudioCNN(1, 32, 40, size, attention=True),
    "audio_transformer": lambda size: SpectrogramTransformer(2, 30, 40, size),
    "panorama_cnn": lambda size: PanoramaCNN((16, 32), size),
    "imu_tcn": lambda size: ImuTCN(64, size),
    "imu_transformer": lambda size: ImuTransformer(61, size),
    "skeleton_net": lambda size: SkeletonNet(CHAIN, 24, size),
}
KINDS = pytest.mark.parametrize("kind", list(TRUNKS))
WITH_MARKS = pytest.mark.parametrize("kind", ["imu_tcn", "imu_transformer", "skeleton_net"])


def trunk(kind: str, size: ClipSize = "micro") -> ClipTrunk:
    torch.manual_seed(0)
    return TRUNKS[kind](size)


def inputs_for(net: ClipTrunk, num: int, seed: int = 0) -> Tensor:
    """Random inputs; readings everywhere for networks that are told of gaps."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, *net.in_shape, generator=generator)
    if not isinstance(net, AudioCNN | SpectrogramTransformer | PanoramaCNN):
        inputs[:, -1] = 1.0
    return inputs
