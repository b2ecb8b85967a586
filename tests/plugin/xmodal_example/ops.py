"""A teacher that sees the mean colour of image cells, and an op that hears how loud a sound is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

if TYPE_CHECKING:
    from xmodal.values import Audio, Embedding, FeatureMap, Image, Views


@dataclass(frozen=True)
class ColourTeacher:
    """Mean colour of `cells` x `cells` parts of an image; text is the name of a colour."""

    cells: int
    name: str = "colour"
    channels: int = 3
    space: str = "raw"
    licence: str = "CC0-1.0"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings; there are no weights."""
        return hashlib.sha256(f"colour {self.cells}".encode()).hexdigest()

    def encode(self, image: Image) -> FeatureMap:
        """Mean colours of one view."""
        import torch

        from xmodal.values import FeatureMap

        means = torch.nn.functional.adaptive_avg_pool2d(image.rgb, self.cells)
        rows = means.flatten(1).T.contiguous()
        return FeatureMap(
            rows=rows,
            valid=torch.ones(len(rows), dtype=torch.bool),
            weight=torch.ones(len(rows)),
            grid_hw=(self.cells, self.cells),
            camera=image.camera,
            name=image.name,
        )


class Encoded(Sequence[Any]):
    """Views, encoded when they are asked for."""

    def __init__(self, teacher: ColourTeacher, cameras: Views[Image]) -> None:
        self.teacher, self.cameras = teacher, cameras

    def __len__(self) -> int:
        return len(self.cameras)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.teacher.encode(self.cameras[index])


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Mean colours of image cells.

    Attributes:
        frozen: Always true.
        cells: Cells along each side.
    """

    op: Literal["colour"] = "colour"
    frozen: Literal[True] = True
    cells: int = 4

    channels: ClassVar[int] = 3
    space: ClassVar[str] = "raw"

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise ValueError(f"cells must be at least 1, not {self.cells}")

    def teacher(self) -> ColourTeacher:
        """The teacher."""
        return ColourTeacher(self.cells)

    def __call__(self, teacher: ColourTeacher, cameras: Views[Image]) -> Views[FeatureMap]:
        """Mean colours of every view."""
        return Encoded(teacher, cameras)


@dataclass(frozen=True, kw_only=True)
class Loudness:
    """Root mean square of every recording."""

    op: Literal["loudness"] = "loudness"

    channels: ClassVar[int] = 1

    def __call__(self, sound: Audio) -> Embedding:
        """One row for each recording."""
        import torch

        from xmodal.values import Embedding

        pairs = zip(sound.offsets[:-1], sound.offsets[1:], strict=True)
        rows = [sound.amplitudes[:, a:b].square().mean().sqrt() for a, b in pairs]
        return Embedding(
            rows=torch.stack(rows)[:, None],
            valid=torch.ones(len(rows), dtype=torch.bool),
            weight=torch.ones(len(rows)),
            offsets=torch.arange(len(rows) + 1),
        )
