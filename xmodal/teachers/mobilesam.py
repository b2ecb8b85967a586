"""MobileSAM: image encoder and point decoder, in ONNX Runtime.

The code comes from `mobilesam-mirror`, the weights from a package that carries the official file.
Coordinates here are pixels of SAM's input, a square of 1024 into whose top left corner the resized
image is placed; masks are logits over 256 x 256 cells of that square.

Source:
    Zhang et al., Faster Segment Anything, 2023; Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.teachers.onnx_models import Exported, OnnxModel
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import MOBILE_SAM, need

INPUT_SIDE = 1024
MASK_SIDE = 256
# Mean and deviation of SAM's training images, 8-bit scale.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class MobileSam:
    """Encoder and decoder of MobileSAM; weights are read at first use."""

    licence = MOBILE_SAM.licence
    weights_sha256 = MOBILE_SAM.sha256

    @cached_property
    def _encoder(self) -> OnnxModel:
        MOBILE_SAM.locate()
        return OnnxModel(
            Exported(
                name="mobile_sam_encoder",
                version=f"{MOBILE_SAM.sha256}/1",
                build=_encoder_module,
                inputs=("image",),
                outputs=("embedding",),
                batched=(),
            )
        )

    @cached_property
    def _decoder(self) -> OnnxModel:
        MOBILE_SAM.locate()
        return OnnxModel(
            Exported(
                name="mobile_sam_decoder",
                version=f"{MOBILE_SAM.sha256}/1",
                build=_decoder_module,
                inputs=("embedding", "xy"),
                outputs=("masks", "iou"),
                batched=("xy", "masks", "iou"),
            )
        )

    def embed(self, rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 256 64 64"]:
        """Encode an image in [0, 1]; its long side becomes 1024 pixels."""
        return self._encoder(_padded(rgb))[0]

    def masks(
        self, embedding: Float[Tensor, "1 256 64 64"], xy: Float[Tensor, "N 2"]
    ) -> tuple[Float[Tensor, "N 3 256 256"], Float[Tensor, "N 3"]]:
        """Three masks (part, object, whole) for each prompt point.

        Args:
            embedding: From `embed`.
            xy: Points in pixels of SAM's input.

        Returns:
            Mask logits, and the IoU that the network predicts for each mask.
        """
        masks, iou = self._decoder(embedding, xy)
        return masks, iou


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


def _load() -> Any:
    declare_operators()
    try:
        with warnings.catch_warnings():
            # mobile_sam imports timm by names that timm has deprecated.
            warnings.simplefilter("ignore")
            from mobile_sam.build_sam import build_sam_vit_t
    except ImportError:
        raise need("mobile_sam", "embedded") from None
    sam = build_sam_vit_t()
    sam.load_state_dict(torch.load(MOBILE_SAM.locate(), map_location="cpu", weights_only=True))
    return sam.eval()


def _encoder_module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return _load().image_encoder, (torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE),)


def _decoder_module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    embedding = torch.zeros(1, 256, 64, 64)
    return _PointDecoder(_load()).eval(), (embedding, torch.zeros(2, 2))


class _PointDecoder(nn.Module):
    """Prompt encoder and mask decoder for one foreground point a prompt."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        prompt = sam.prompt_encoder
        self.decoder = sam.mask_decoder
        self.encode_position = prompt.pe_layer._pe_encoding
        self.image_position = nn.Buffer(prompt.get_dense_pe().detach())
        self.no_mask = nn.Buffer(prompt.no_mask_embed.weight.detach().view(1, -1, 1, 1))
        self.point = nn.Buffer(prompt.point_embeddings[1].weight.detach())
        self.padding = nn.Buffer(prompt.not_a_point_embed.weight.detach())

    def forward(self, embedding: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        point = self.encode_position((xy + 0.5) / INPUT_SIDE) + self.point
        # SAM pads a prompt without a box with one "not a point".
        sparse = torch.stack([point, self.padding.expand_as(point)], dim=1)
        masks, iou = self.decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.image_position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=self.no_mask.expand(1, -1, 64, 64),
        )
        # The first mask is the single-mask answer, meant for prompts of several points.
        return masks[:, 1:], iou[:, 1:]
