"""SAM networks that answer point prompts, in ONNX Runtime where that is faster.

MobileSAM's code comes from `mobilesam-mirror`, its weights from a package that carries the official
file; SAM's code comes from `segment-anything`, its weights from the user.
Coordinates here are pixels of SAM's input, a square of 1024 into whose top left corner the resized
image is placed; masks are logits over 256 x 256 cells of that square.

Source:
    Zhang et al., Faster Segment Anything, 2023; Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.atomic import sha256_file
from xmodal.errors import ConfigError
from xmodal.teachers.checkpoints import load_strictly, missing_checkpoint, read_checkpoint
from xmodal.teachers.onnx_models import Exported, OnnxModel
from xmodal.teachers.sam_decoder import CELLS, MaskUpscaler, PromptTokens
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import MOBILE_SAM, need

SamModel = Literal["vit_t", "vit_b", "vit_l", "vit_h"]
INPUT_SIDE = 1024
MASK_SIDE = 256
# Mean and deviation of SAM's training images, 8-bit scale.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class PromptedSam:
    """A SAM that answers point prompts; weights are read at first use."""

    def __init__(self, model: SamModel = "vit_t", checkpoint: Path | None = None) -> None:
        """Choose a network.

        Args:
            model: `vit_t` is MobileSAM; `vit_b`, `vit_l`, `vit_h` are SAM's.
            checkpoint: Local weights file; None for the packaged MobileSAM.

        Raises:
            ConfigError: If the model needs a checkpoint.
            CheckpointError: If the checkpoint does not exist.
        """
        if checkpoint is None and model != "vit_t":
            raise ConfigError(
                f"teacher sam, model {model}",
                wanted="a local checkpoint",
                got="none: only MobileSAM (vit_t) comes with a package",
                fix="set checkpoint to a local file, or model to vit_t",
            )
        if checkpoint is not None and not checkpoint.is_file():
            raise missing_checkpoint(checkpoint)
        self._model: SamModel = model
        self._checkpoint = checkpoint
        packaged = checkpoint is None
        self.licence = MOBILE_SAM.licence if packaged else "that of the given checkpoint"
        self.weights_sha256 = MOBILE_SAM.sha256 if checkpoint is None else sha256_file(checkpoint)

    @cached_property
    def _encoder(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        if self._model != "vit_t":
            # SAM's own encoders pass the 2 GB that an ONNX file can hold: they run in torch.
            encoder = self._load().image_encoder
            return lambda x: (encoder(x),)
        return self._exported(
            Exported(
                name="sam_encoder",
                version=f"{self.weights_sha256}/1",
                build=lambda: (self._load().image_encoder, (_blank(),)),
                inputs=("image",),
                outputs=("embedding",),
            )
        )

    @cached_property
    def _prompter(self) -> OnnxModel:
        return self._exported(
            Exported(
                name="sam_prompt_tokens",
                version=f"{self.weights_sha256}/1",
                build=lambda: (
                    PromptTokens(self._load(), INPUT_SIDE),
                    (torch.zeros(1, 256, CELLS, CELLS), torch.zeros(2, 2)),
                ),
                inputs=("embedding", "xy"),
                outputs=("iou", "coefficients", "cells"),
                batched=("xy", "iou", "coefficients", "cells"),
            )
        )

    @cached_property
    def _upscaler(self) -> OnnxModel:
        return self._exported(
            Exported(
                name="sam_mask_upscaler",
                version=f"{self.weights_sha256}/1",
                build=lambda: (
                    MaskUpscaler(self._load()),
                    (torch.zeros(2, 3, 32), torch.zeros(2, CELLS * CELLS, 256)),
                ),
                inputs=("coefficients", "cells"),
                outputs=("masks",),
                batched=("coefficients", "cells", "masks"),
            )
        )

    def _exported(self, what: Exported) -> OnnxModel:
        if self._checkpoint is None:
            MOBILE_SAM.locate()  # what was exported from them is used only while they are there
        return OnnxModel(what)

    def _load(self) -> Any:
        path = self._checkpoint or MOBILE_SAM.locate()
        sam = _build(self._model)
        load_strictly(sam, read_checkpoint(path), str(path))
        return sam.eval().requires_grad_(False)

    def embed(self, rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 256 64 64"]:
        """Encode an image in [0, 1]; its long side becomes 1024 pixels."""
        with torch.inference_mode():
            return self._encoder(_padded(rgb))[0].clone()

    def masks(
        self,
        embedding: Float[Tensor, "1 256 64 64"],
        xy: Float[Tensor, "N 2"],
        min_iou: float = 0.0,
    ) -> tuple[Float[Tensor, "M 256 256"], Float[Tensor, " M"]]:
        """Masks for prompt points, up to three (part, object, whole) for each.

        Args:
            embedding: From `embed`.
            xy: Points in pixels of SAM's input.
            min_iou: Masks whose predicted IoU is not above this are left out, and not computed.

        Returns:
            Mask logits, and the IoU that the network predicts for each mask; in prompt order.
        """
        iou, coefficients, cells = self._prompter(embedding, xy)
        sure = iou > min_iou
        chosen = sure.any(dim=1).nonzero()[:, 0]
        if not chosen.numel():
            return torch.zeros(0, MASK_SIDE, MASK_SIDE), torch.zeros(0)
        masks = self._upscaler(coefficients[chosen], cells[chosen])[0]
        return masks[sure[chosen]], iou[sure]


def resized_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """Size of the image inside SAM's square input, pixels."""
    scale = INPUT_SIDE / max(hw)
    return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))


def _padded(rgb: Tensor) -> Tensor:
    size = resized_hw((rgb.shape[1], rgb.shape[2]))
    image = nn.functional.interpolate(
        rgb[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    image = (image * 255 - mean) / std
    return nn.functional.pad(image, (0, INPUT_SIDE - size[1], 0, INPUT_SIDE - size[0]))


def _blank() -> Tensor:
    return torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE)


def _build(model: SamModel) -> Any:
    declare_operators()
    package = "mobile_sam" if model == "vit_t" else "segment_anything"
    try:
        with warnings.catch_warnings():
            # mobile_sam imports timm by names that timm has deprecated.
            warnings.simplefilter("ignore")
            module: Any = import_module(f"{package}.build_sam")
    except ImportError:
        raise need(package, "embedded" if model == "vit_t" else "teachers") from None
    return getattr(module, f"build_sam_{model}")()
