"""Masks of everything, by MobileSAM or any SAM checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.teachers.mask_grid import GridOptions, MaskLogits, grid_masks
from xmodal.teachers.membership import membership_of
from xmodal.teachers.sam_networks import INPUT_SIDE, PromptedSam, SamModel, resized_hw
from xmodal.teachers.teacher import Space, no_text
from xmodal.values import Image, Masks

_REVISION = 1


class SamTeacher:
    """Masks with the mean direction of SAM's image embedding inside them.

    The embedding knows shapes and boundaries, not names; the masks themselves are what other
    teachers use.
    """

    name = "sam"
    channels = 256
    space: Space = "unit"

    def __init__(
        self,
        model: SamModel = "vit_t",
        *,
        checkpoint: Path | None = None,
        options: GridOptions | None = None,
        area_power: float = 0.5,
        mask_long_side: int = 256,
    ) -> None:
        """Choose a network; its weights are read at first use.

        Args:
            model: `vit_t` is MobileSAM; `vit_b`, `vit_l`, `vit_h` are SAM's.
            checkpoint: Local weights file; None for the packaged MobileSAM.
            options: Prompt grid and mask filters.
            area_power: Weight of a mask in overlaps is predicted IoU x area^-area_power.
            mask_long_side: Cells of the mask grid along the longer image side.

        Raises:
            ConfigError: If the model needs a checkpoint.
            CheckpointError: If the checkpoint does not exist.
        """
        self.options = options or GridOptions()
        self._network = PromptedSam(model, checkpoint)
        self._area_power, self._long_side = area_power, mask_long_side
        self.licence = self._network.licence
        stamp = [
            _REVISION,
            model,
            self._network.weights_sha256,
            asdict(self.options),
            area_power,
            mask_long_side,
        ]
        self.fingerprint = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """Digest of the network's weights file."""
        return self._network.weights_sha256

    def encode(self, image: Image) -> Masks:
        """Masks of one view; uncovered pixels belong to no mask."""
        embedding = self._network.embed(image.rgb)
        found = self._grid(embedding, image)
        members = found.members
        rows = _mean_embedding(embedding, members, resized_hw(_hw(image)))
        return Masks(
            rows=rows,
            valid=torch.ones(rows.shape[0], dtype=torch.bool),
            weight=found.weight(self._area_power),
            membership=membership_of(members),
            grid_hw=(members.shape[1], members.shape[2]),
            camera=image.camera,
            name=image.name,
        )

    def logits(self, image: Image) -> MaskLogits:
        """The masks alone, as logits."""
        return self._grid(self._network.embed(image.rgb), image)

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """SAM has no text side.

        Raises:
            UsageError: Always.
        """
        del text
        raise no_text(self.name)

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """Mean direction of the whole image's embedding."""
        embedding = self._network.embed(image.rgb)
        whole = torch.ones(1, *_hw(image), dtype=torch.bool)
        return _mean_embedding(embedding, whole, resized_hw(_hw(image)))[0]

    def relevancy(
        self,
        rows: Float[Tensor, "N C"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """SAM has no text side.

        Raises:
            UsageError: Always.
        """
        del rows, text, negatives
        raise no_text(self.name)

    def _grid(self, embedding: Tensor, image: Image) -> MaskLogits:
        return grid_masks(
            lambda xy, min_iou: self._network.masks(embedding, xy, min_iou),
            input_hw=resized_hw(_hw(image)),
            input_side=INPUT_SIDE,
            options=self.options,
            long_side=self._long_side,
        )


def _hw(image: Image) -> tuple[int, int]:
    return image.rgb.shape[1], image.rgb.shape[2]


def _mean_embedding(embedding: Tensor, members: Tensor, input_hw: tuple[int, int]) -> Tensor:
    """Mean of the embedding inside each mask, by the masks' share of every embedding cell."""
    side = embedding.shape[-1]
    # The image covers the top left part of the embedding; the rest is padding.
    height, width = (max(1, -(-n * side // INPUT_SIDE)) for n in input_hw)
    cells = embedding[0, :, :height, :width].flatten(1).T
    share = nn.functional.adaptive_avg_pool2d(members.float(), (height, width)).flatten(1)
    return nn.functional.normalize(share @ cells, dim=1)
