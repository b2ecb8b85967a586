"""CLIP models of any architecture through open_clip."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from xmodal.errors import CheckpointError, ConfigError
from xmodal.teachers.clip_dense import dense_rows, stride_of, takes_any_size
from xmodal.teachers.mask_crops import mask_crops
from xmodal.teachers.membership import membership_of
from xmodal.teachers.sam import SamTeacher
from xmodal.teachers.teacher import Space, check_texts, pairwise_softmax, relevancy_by_products
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import need
from xmodal.values import FeatureMap, Image, Masks

_REVISION = 1
# What a query competes with when the user names nothing (LERF's canonical phrases).
DEFAULT_NEGATIVES = ("object", "things", "stuff", "texture")
DEFAULT_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a {} in a room.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
)
_CROP_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class OpenClipOptions:
    """Settings of a CLIP teacher.

    Attributes:
        model: open_clip's name of an architecture, or `local-dir:FOLDER`.
        pretrained: A weights file, or a tag that open_clip downloads; empty with `local-dir:`.
        regions: `dense` for the value path of every place, `masks` for crops of SAM's masks.
        image_size: Longer image side as the network sees it, pixels; None for twice its own size.
        templates: Sentences around a query, `{}` being the query; their vectors are averaged.
        scales: Sides of the mask crops, as multiples of a mask's longer side.
        area_power: With masks, weight in overlaps is predicted IoU times area to minus this power.
    """

    model: str = "ViT-B-16"
    pretrained: str = ""
    regions: Literal["dense", "masks"] = "dense"
    image_size: int | None = None
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    scales: tuple[float, ...] = (1.0, 1.3, 2.0)
    area_power: float = 0.5


class OpenClipTeacher:
    """CLIP features of length 1; see `xmodal.teachers.teacher.Teacher`.

    The model is loaded at first use of anything but `name`.
    """

    space: Space = "unit"
    licence = "that of the given checkpoint"

    def __init__(self, options: OpenClipOptions, masks: SamTeacher | None = None) -> None:
        """Choose a model.

        Args:
            options: Model, checkpoint and settings.
            masks: Where masks come from when `options.regions` is `masks`; the packaged MobileSAM
                by default.

        Raises:
            ConfigError: If no weights are named: random weights teach nothing.
        """
        if not options.pretrained and not options.model.startswith("local-dir:"):
            raise ConfigError(
                f"teacher openclip, model {options.model}",
                wanted="pretrained: a weights file, an open_clip tag, or model: local-dir:FOLDER",
                got="nothing",
                fix="name a local checkpoint, for example pretrained: weights/vit_b_16.safetensors",
            )
        self.options = options
        self.name = f"openclip:{options.model}"
        self._masks = masks or SamTeacher()

    @cached_property
    def model(self) -> Any:
        """The open_clip model, in eval mode, without gradients."""
        return _load(self.options).eval().requires_grad_(False)

    @property
    def channels(self) -> int:
        """Width of the joint space."""
        return self._channels

    @property
    def fingerprint(self) -> str:
        """Digest of the loaded weights and the settings."""
        return self._digest

    @cached_property
    def _channels(self) -> int:
        return int(self._text_rows([["a"]]).shape[1])

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(
            json.dumps([_REVISION, asdict(self.options)], sort_keys=True).encode()
        )
        if self.options.regions == "masks":
            digest.update(self._masks.fingerprint.encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {list(tensor.shape)};".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def encode(self, image: Image) -> FeatureMap | Masks:
        """Features of one view, by place or by mask."""
        if self.options.regions == "masks":
            return self._encode_masks(image)
        with torch.inference_mode():
            rows, grid_hw = dense_rows(self.model.visual, self._seen(image.rgb))
        rows = functional.normalize(rows.float().clone(), dim=1)
        return FeatureMap(
            rows=rows,
            valid=torch.ones(rows.shape[0], dtype=torch.bool),
            weight=torch.ones(rows.shape[0]),
            grid_hw=grid_hw,
            camera=image.camera,
            name=image.name,
        )

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """One unit vector per text: the mean over its synonyms (`|`) and all templates."""
        return self._text_rows(check_texts(text))

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """The model's own vector of a whole image or crop, squeezed to its input size."""
        height, width = self._native_hw
        x = functional.interpolate(
            image.rgb[None],
            size=(height, width),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
        with torch.inference_mode():
            found = self.model.encode_image(self._normalised(x.clamp(0, 1)), normalize=True)
        return found[0].float().clone()

    def relevancy(
        self,
        rows: Float[Tensor, "N C"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """Probability of the text against the most similar negative, by the model's logit scale.

        Without negatives the rivals are "object", "things", "stuff" and "texture".
        """
        return relevancy_by_products(self, rows, text, negatives)

    @property
    def unit_rows(self) -> bool:
        """Lifted rows keep their length, which says how much views agreed."""
        return False

    def rivals(self, negatives: list[str]) -> list[str]:
        """The negatives, or four words that fit anything."""
        return negatives or list(DEFAULT_NEGATIVES)

    def score_products(
        self, products: Float[Tensor, "N T"], rivals: Float[Tensor, "N K"]
    ) -> Float[Tensor, "N T"]:
        """Relevancy from products with texts and rivals."""
        return pairwise_softmax(products, rivals, float(self.model.logit_scale.exp()))

    def _text_rows(self, prompts: list[list[str]]) -> Tensor:
        rows: list[Tensor] = []
        for synonyms in prompts:
            sentences = [t.replace("{}", one) for one in synonyms for t in self.options.templates]
            with torch.inference_mode():
                found = self.model.encode_text(self._tokenizer(sentences), normalize=True)
            rows.append(functional.normalize(found.float().mean(dim=0), dim=0))
        return torch.stack(rows).clone() if rows else torch.zeros(0, self.channels)

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        return open_clip.get_tokenizer(self.options.model)

    @cached_property
    def _preprocess(self) -> dict[str, Any]:
        import open_clip

        return dict(open_clip.get_model_preprocess_cfg(self.model))

    @property
    def _native_hw(self) -> tuple[int, int]:
        size = self._preprocess["size"]
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def _normalised(self, x: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(self._preprocess[key]).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        return (x - mean) / std

    def _seen(self, rgb: Tensor) -> Tensor:
        """The image in whole strides of the network, normalised."""
        visual = self.model.visual
        size = self._native_hw
        if takes_any_size(visual):
            stride = stride_of(visual)
            scale = (self.options.image_size or 2 * max(size)) / max(rgb.shape[1:]) / stride
            size = tuple(max(1, round(side * scale)) * stride for side in rgb.shape[1:])
        x = functional.interpolate(
            rgb[None], size=size, mode="bicubic", antialias=True, align_corners=False
        )
        return self._normalised(x.clamp(0, 1))

    def _encode_masks(self, image: Image) -> Masks:
        found = self._masks.logits(image)
        side = self._native_hw[0]
        # The mean colour is zero after normalisation: it says nothing.
        fill = tuple(round(255 * float(value)) for value in self._preprocess["mean"])
        crops = mask_crops(
            image.rgb,
            found.logits,
            scales=self.options.scales,
            side=side,
            fill=(fill[0], fill[1], fill[2]),
        )
        rows = self._crop_rows(crops).unflatten(0, (-1, len(self.options.scales))).mean(dim=1)
        rows = functional.normalize(rows, dim=1)
        return Masks(
            rows=rows,
            valid=torch.ones(rows.shape[0], dtype=torch.bool),
            weight=found.weight(self.options.area_power),
            membership=membership_of(found.members),
            grid_hw=(found.members.shape[1], found.members.shape[2]),
            camera=image.camera,
            name=image.name,
        )

    def _crop_rows(self, crops: UInt8[Tensor, "K s s 3"]) -> Float[Tensor, "K C"]:
        if not len(crops):
            return torch.zeros(0, self.channels)
        rows: list[Tensor] = []
        for batch in crops.split(_CROP_BATCH):
            x = self._normalised(batch.permute(0, 3, 1, 2).float() / 255)
            with torch.inference_mode():
                rows.append(self.model.encode_image(x, normalize=True).float())
        return torch.cat(rows).clone()


def _load(options: OpenClipOptions) -> Any:
    declare_operators()
    try:
        import open_clip
    except ImportError:
        raise need("open_clip", "teachers") from None
    where = f"teacher openclip, model {options.model}"
    local = options.model.startswith("local-dir:")
    if not local and open_clip.get_model_config(options.model) is None:
        raise ConfigError(
            where,
            wanted="an architecture that open_clip knows, such as ViT-B-16 or RN50",
            got=options.model,
            fix="correct `model`; open_clip.list_models() prints all names",
        )
    file = Path(options.pretrained)
    if not local and not file.is_file():
        _check_tag(open_clip, options, where)
    colours = None if local else _colour_statistics(open_clip, options.model)
    try:
        return open_clip.create_model(
            options.model,
            pretrained=None if local else options.pretrained,
            require_pretrained=True,
            force_preprocess_cfg=colours,
        )
    # open_clip reports missing, damaged and misfit files by any of these.
    except (RuntimeError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            where,
            wanted="weights that fit the architecture",
            got=str(error).strip().splitlines()[0][:300],
            fix="check `model` and `pretrained`; a file must be a state dict of that architecture",
        ) from error


def _check_tag(open_clip: Any, options: OpenClipOptions, where: str) -> None:
    """Refuse what is neither a file nor a tag; a tag the user gave may be downloaded."""
    tags = open_clip.list_pretrained_tags_by_model(options.model)
    if options.pretrained in tags:
        return
    known = ", ".join(tags[:8]) or "none"
    raise CheckpointError(
        where,
        wanted=f"pretrained: an existing weights file, or one of open_clip's tags ({known})",
        got=options.pretrained,
        fix="correct the path or the tag",
    )


def _colour_statistics(open_clip: Any, model: str) -> dict[str, Any]:
    """Mean and deviation that this architecture is trained with.

    A weights file does not carry them and open_clip then assumes OpenAI's: for SigLIP and others
    every feature would be silently wrong. The tags that open_clip knows for the architecture tell.
    """
    from open_clip.pretrained import get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(model)
    found = [get_pretrained_cfg(model, tag) for tag in tags]
    pairs = {(tuple(c["mean"]), tuple(c["std"])) for c in found if c.get("mean") and c.get("std")}
    if len(pairs) != 1 or not all(c.get("mean") for c in found):
        return {}
    mean, std = pairs.pop()
    return {"mean": mean, "std": std}
