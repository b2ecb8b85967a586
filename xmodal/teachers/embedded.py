"""The open-vocabulary teacher that needs no download.

MobileSAM cuts the image into masks, EfficientNet-Lite2 gives the class probabilities of each mask's
crops, and MiniLM turns any words into a weighting of those 1000 classes. It is an
ImageNet-vocabulary teacher, weaker than CLIP: it names objects that ImageNet has, not walls,
floors, cupboards or thin things.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.teachers.classifier import INPUT_SIDE, NUM_CLASSES, EfficientNetLite2
from xmodal.teachers.imagenet_text import TEMPERATURE, ImageNetText
from xmodal.teachers.mask_crops import mask_crops
from xmodal.teachers.mask_grid import GridOptions, MaskLogits
from xmodal.teachers.membership import membership_of
from xmodal.teachers.minilm import MiniLm
from xmodal.teachers.sam import SamTeacher
from xmodal.teachers.teacher import Space, check_texts, relevancy_by_products
from xmodal.values import Image, Masks

# Raise when the code changes what comes out for the same settings.
_REVISION = 1


@dataclass(frozen=True, kw_only=True)
class EmbeddedOptions:
    """Settings of the embedded teacher; the defaults are the measured ones.

    Measured on ten kitchen frames with hand-drawn boxes (50 query-frame pairs, one is 0.02) and on
    eight views of a rendered table (mean IoU over 14 objects): scales 1, 1.3, 2 without dense
    logits and a text temperature of 0.05 gave 0.73 and 0.71, these defaults 0.78 and 0.78 with a
    third fewer crops, a 12 x 12 grid without dense logits 0.65 and 0.70. The power of the area
    hardly matters between 0.25 and 1; showing the background around the mask, and more than 0.2 of
    dense logits, lose in the kitchen. Chosen on these frames, so a little optimistic.

    Attributes:
        masks: Prompt grid and mask filters.
        scales: Sides of the crops, as multiples of a mask's longer side.
        dense_mix: Share of the whole image's dense logits, averaged in the mask, in the mask's
            logits; 0 leaves them out.
        area_power: Weight of a mask in overlaps is predicted IoU times area to minus this power.
        mask_long_side: Cells of the mask grid along the longer image side.
    """

    masks: GridOptions = field(default_factory=GridOptions)
    scales: tuple[float, ...] = (1.0, 2.0)
    dense_mix: float = 0.1
    area_power: float = 0.25
    mask_long_side: int = 256


class EmbeddedTeacher:
    """Masks with ImageNet class probabilities; see `xmodal.teachers.teacher.Teacher`."""

    name = "embedded"
    channels = NUM_CLASSES
    space: Space = "simplex"

    def __init__(self, options: EmbeddedOptions | None = None) -> None:
        self.options = options or EmbeddedOptions()
        self._sam = SamTeacher(
            options=self.options.masks, mask_long_side=self.options.mask_long_side
        )
        self._net = EfficientNetLite2()
        self._encoder = MiniLm()
        self._text = ImageNetText(self._encoder)
        self.licence = "Apache-2.0 (MobileSAM, EfficientNet-Lite, all-MiniLM-L6-v2)"
        self.fingerprint = self._fingerprint()

    def encode(self, image: Image) -> Masks:
        """Masks of one view with class probabilities; uncovered pixels belong to no mask."""
        found = self._sam.logits(image)
        rows = self._probabilities(image.rgb, found)
        members = found.members
        return Masks(
            rows=rows,
            valid=torch.ones(rows.shape[0], dtype=torch.bool),
            weight=found.weight(self.options.area_power),
            membership=membership_of(members),
            grid_hw=(members.shape[1], members.shape[2]),
            camera=image.camera,
            name=image.name,
        )

    def encode_text(self, text: list[str]) -> Float[Tensor, "T 1000"]:
        """Class weights of each text, summing to one; `|` joins synonyms, which are averaged."""
        prompts = check_texts(text)
        if not prompts:
            return torch.zeros(0, NUM_CLASSES)
        return torch.stack([self._text.weights(one) for one in prompts])

    def encode_image(self, image: Image) -> Float[Tensor, " 1000"]:
        """Class probabilities of a whole image or crop, without any mask."""
        whole = torch.ones(1, 1, 1)
        crops = mask_crops(image.rgb, whole, scales=(1.0,), side=INPUT_SIDE)
        return self._net.classify(crops).softmax(dim=1)[0]

    def relevancy(
        self,
        rows: Float[Tensor, "N 1000"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """Probability mass on the text's classes: the plain dot product, in [0, 1].

        With negatives the score s is multiplied by s / (s + n), n being the strongest negative's
        score: the score keeps its size where nothing competes and halves where both are equal.
        """
        return relevancy_by_products(self, rows, text, negatives)

    @property
    def unit_rows(self) -> bool:
        """Rows are probabilities and stay as they are."""
        return False

    def rivals(self, negatives: list[str]) -> list[str]:
        """The negatives, if any."""
        return negatives

    def score_products(
        self, products: Float[Tensor, "N T"], rivals: Float[Tensor, "N K"]
    ) -> Float[Tensor, "N T"]:
        """Relevancy from products with texts and negatives."""
        score = products.clamp(0, 1)
        if rivals.shape[1] == 0:
            return score
        total = score + rivals.clamp(0, 1).amax(dim=1, keepdim=True)
        return torch.where(total > 0, score * score / total.clamp_min(1e-30), score)

    def _probabilities(self, rgb: Tensor, found: MaskLogits) -> Tensor:
        scales = self.options.scales
        crops = mask_crops(rgb, found.logits, scales=scales, side=INPUT_SIDE)
        logits = self._net.classify(crops).unflatten(0, (-1, len(scales))).mean(dim=1)
        if self.options.dense_mix > 0:
            dense = self._net.dense(rgb)
            inside = _mean_inside(found.members, dense)
            logits = torch.lerp(logits, inside, self.options.dense_mix)
        return logits.softmax(dim=1)

    def _fingerprint(self) -> str:
        parts = {
            "revision": _REVISION,
            "options": asdict(self.options),
            "temperature": TEMPERATURE,
            "weights": [part.weights_sha256 for part in (self._sam, self._net, self._encoder)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _mean_inside(members: Tensor, dense: Float[Tensor, "h w C"]) -> Float[Tensor, "M C"]:
    """Mean of a coarse map inside each mask, by the masks' share of every coarse cell."""
    share = nn.functional.adaptive_avg_pool2d(
        members.float(), (dense.shape[0], dense.shape[1])
    ).flatten(1)
    return (share @ dense.flatten(0, 1)) / share.sum(dim=1, keepdim=True).clamp_min(1e-6)
