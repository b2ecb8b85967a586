"""The op `openclip`: CLIP features of any architecture."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

if TYPE_CHECKING:
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import FeatureMap, Image, Masks, Views

# Kept equal to xmodal.teachers.openclip.DEFAULT_TEMPLATES by a test; written out here so that a
# graph is checked without loading torch.
_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a {} in a room.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
)


@dataclass(frozen=True, kw_only=True)
class OpenClip:
    """CLIP features asked with any words.

    Attributes:
        frozen: Always true: a teacher does not learn.
        model: open_clip's name of an architecture, or `local-dir:FOLDER` with a config and weights.
        pretrained: A local weights file, or a tag that open_clip downloads. OpenAI's weights need a
            model whose name ends in `-quickgelu`.
        regions: `dense` gives a feature for every patch (the last block's value path), `masks` for
            crops of MobileSAM's masks.
        image_size: Longer image side as the network sees it, pixels; by default twice its own size.
        templates: Sentences around a query, `{}` being the query; their vectors are averaged.
        scales: Sides of the mask crops, as multiples of a mask's longer side.
        area_power: With masks, weight in overlaps is predicted IoU x area^-area_power.
    """

    op: Literal["openclip"] = "openclip"
    frozen: Literal[True] = True
    model: str = "ViT-B-16"
    pretrained: str = ""
    regions: Literal["dense", "masks"] = "dense"
    image_size: int | None = None
    templates: tuple[str, ...] = _TEMPLATES
    scales: tuple[float, ...] = (1.0, 1.3, 2.0)
    area_power: float = 0.5

    space: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        if self.image_size is not None and not 32 <= self.image_size <= 4096:
            raise ValueError(f"image_size must be 32 to 4096 pixels, not {self.image_size}")
        if not self.templates or not all("{}" in one for one in self.templates):
            raise ValueError("templates must be one or more sentences that contain {}")
        if not self.scales or not all(0.5 <= scale <= 8 for scale in self.scales):
            raise ValueError(f"scales must be one or more numbers from 0.5 to 8, not {self.scales}")
        if not (math.isfinite(self.area_power) and 0 <= self.area_power <= 4):
            raise ValueError(f"area_power must lie between 0 and 4, not {self.area_power}")

    @property
    def gives(self) -> Literal["feature_map", "masks"]:
        """Kind of node: patches or masks."""
        return "masks" if self.regions == "masks" else "feature_map"

    @property
    def channels(self) -> int | None:
        """Width of the joint space, read from the architecture's description; None if unknown."""
        path = _description(self.model)
        if path is None or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
        except ValueError:
            return None
        width = found.get("model_cfg", found).get("embed_dim")
        return width if isinstance(width, int) else None

    def teacher(self) -> Teacher:
        """The frozen network; it is loaded at first use."""
        from xmodal.teachers.openclip import OpenClipOptions, OpenClipTeacher

        return OpenClipTeacher(
            OpenClipOptions(
                model=self.model,
                pretrained=self.pretrained,
                regions=self.regions,
                image_size=self.image_size,
                templates=self.templates,
                scales=self.scales,
                area_power=self.area_power,
            )
        )

    def __call__(self, teacher: Teacher, cameras: Views[Image]) -> Views[FeatureMap] | Views[Masks]:
        """Features of every view, computed when they are asked for."""
        from xmodal.teachers.cache import CachedViews

        return cast("Views[FeatureMap]", CachedViews(cameras, teacher, None))


def _description(model: str) -> Path | None:
    """The architecture's JSON file, found without importing open_clip."""
    if model.startswith("local-dir:"):
        return Path(model.removeprefix("local-dir:")) / "open_clip_config.json"
    try:
        package = metadata.distribution("open_clip_torch")
    except metadata.PackageNotFoundError:
        return None
    name = model.replace("/", "-")
    return Path(str(package.locate_file(f"open_clip/model_configs/{name}.json")))
