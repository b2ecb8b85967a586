"""Pictures, and a small teacher that counts its calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lifting.cameras import Camera
from xmodal.teachers.membership import membership_of
from xmodal.values import FeatureMap, Image, Masks

MakeImage = Callable[..., Image]


@pytest.fixture
def make_image() -> MakeImage:
    def make(seed: int = 0, hw: tuple[int, int] = (24, 32), name: str | None = None) -> Image:
        rgb = torch.rand(3, *hw, generator=torch.Generator().manual_seed(seed))
        camera = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=hw)
        return Image(rgb=rgb, camera=camera, name=name or f"{seed:06d}")

    return make


class Colours:
    """Masks by brightness, with class-like rows of random numbers; counts what it encodes."""

    name, channels, space, licence = "colours", 40, "simplex", "none"

    def __init__(self, fingerprint: str = "a" * 64, masks: int = 3, scale: float = 1.0) -> None:
        self.fingerprint, self.masks, self.scale = fingerprint, masks, scale
        self.encoded: list[str] = []

    def encode(self, image: Image) -> FeatureMap | Masks:
        self.encoded.append(image.name)
        grey = image.rgb.mean(dim=0)
        levels = torch.linspace(0.3, 0.7, self.masks)
        members = grey[None] > levels[:, None, None]
        generator = torch.Generator().manual_seed(int(image.rgb.sum() * 1000))
        rows = torch.rand(self.masks, 40, generator=generator).softmax(dim=1) * self.scale
        return Masks(
            rows=rows,
            valid=torch.ones(self.masks, dtype=torch.bool),
            weight=levels,
            membership=membership_of(members),
            grid_hw=(grey.shape[0], grey.shape[1]),
            camera=image.camera,
            name=image.name,
        )

    def encode_text(self, text: list[str]) -> Tensor:
        return torch.ones(len(text), 40)

    def encode_image(self, image: Image) -> Tensor:
        return torch.ones(40)

    def relevancy(self, rows: Tensor, text: list[str], negatives: list[str]) -> Tensor:
        return torch.ones(rows.shape[0], len(text))


@pytest.fixture
def colours() -> type[Colours]:
    return Colours
