"""The op `panorama_net`: dense maps from a picture that goes all the way round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from xmodal.edges.encode.clip_student import check_grid, check_shares, clips_of, rows_of_clips
from xmodal.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from detectors.grid_decoder import GridDecoder
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Grids, Video

# What pictures are brought to before the network sees them: about zero mean and unit spread.
_MIDDLE, _SPREAD = 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class PanoramaNet:
    """A map of cells for each recording, from the first frame of its film.

    What `grid_decoder` is for sound: it learns depths, classes of pixels or a floor plan where maps
    are known, and can then teach sound everywhere. Columns of the frame are directions of a whole
    turn: the last one is beside the first.

    Attributes:
        size: `micro` (0.7 M weights with a map of 16 x 32 cells), `tiny` (1.2 M), `small` (2.2 M)
            or `base` (4.9 M).
        frame_hw: Rows and columns that a frame is brought to.
        grid_hw: Rows and columns of the map; of a slice, at least 2 to the power of `levels`.
        slices: How many slices of a volume, one below another, the map is made of.
        levels: How often the decoder doubles its grid.
        positive: Rows are made positive, for depths. Not with teachers of probabilities or of
            directions.
        aligned: Whether the map has the axes of the picture. A floor plan has not.
        dropout: Part of the decoder's seed that is hidden while training.
        gain: In training, a picture is made lighter or darker by up to this part.
        tint: In training, each colour by up to this part, by itself.
    """

    op: Literal["panorama_net"] = "panorama_net"
    size: Literal["micro", "tiny", "small", "base"] = "tiny"
    frame_hw: tuple[int, int] = (64, 128)
    grid_hw: tuple[int, int] = (16, 32)
    slices: int = 1
    levels: int = 3
    positive: bool = False
    aligned: bool = True
    dropout: float = 0.0
    gain: float = 0.2
    tint: float = 0.1

    def __post_init__(self) -> None:
        check_shares(dropout=self.dropout, gain=self.gain, tint=self.tint)
        check_grid(self.grid_hw, self.slices, self.levels)
        if min(self.frame_hw) < 16:
            raise ValueError(f"both sides of frame_hw must be 16 or more, not {self.frame_hw}")

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> GridDecoder:
        """A new network with random weights that gives `channels` columns in `space`.

        Raises:
            DataError: If `positive` is asked of rows that are probabilities or directions.
        """
        from detectors.grid_decoder import DenseGrid, GridDecoder
        from detectors.panorama_cnn import PanoramaCNN

        if self.positive and space not in (None, "raw"):
            raise DataError(
                "op `panorama_net`",
                wanted="teachers of plain rows, such as depths, for `positive: true`",
                got=f"teachers whose rows are {space}",
                fix="write positive: false, or teach this map by depths alone",
            )
        return GridDecoder(
            PanoramaCNN(self.frame_hw, self.size),
            channels,
            DenseGrid(self.grid_hw, self.slices, self.levels),
            space=space or "raw",
            positive=self.positive,
            dropout=self.dropout,
            aligned=self.aligned,
        )

    def describe(self, film: Video) -> Clips:
        """The first frame of each film, [3, rows, columns] about zero; none of an empty film."""
        return clips_of(
            [self._frame(frames[:1]) for frames in film.rgb.split(film.offsets.diff().tolist())],
            (3, *self.frame_hw),
        )

    def _frame(self, rgb: Tensor) -> Tensor:
        import torch

        if not len(rgb):
            return torch.zeros(0, 3, *self.frame_hw)
        frames = torch.nn.functional.interpolate(
            rgb.float() / 255, self.frame_hw, mode="bilinear", align_corners=False, antialias=True
        )
        return (frames - _MIDDLE) / _SPREAD

    def vary(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures lighter or darker, and of another tint; what is where stays."""
        import torch

        draw = torch.rand(len(inputs), 4, generator=generator, device=generator.device) * 2 - 1
        draw = draw.to(inputs)
        factor = (1 + self.gain * draw[:, :1]) * (1 + self.tint * draw[:, 1:])
        shown = ((inputs * _SPREAD + _MIDDLE) * factor[:, :, None, None]).clamp(0, 1)
        return (shown - _MIDDLE) / _SPREAD

    def __call__(self, net: GridDecoder, film: Video) -> Grids:
        """Maps of whole recordings; differentiable."""
        return cast("Grids", rows_of_clips(net, self.describe(film)))
