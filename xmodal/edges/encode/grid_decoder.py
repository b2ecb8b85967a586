"""The op `grid_decoder`: dense maps from sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from xmodal.edges.encode.audio_student import AudioStudentOp
from xmodal.edges.encode.clip_student import check_grid, rows_of_clips
from xmodal.errors import DataError

if TYPE_CHECKING:
    from detectors.grid_decoder import GridDecoder
    from xmodal.values import Audio, Grids


@dataclass(frozen=True, kw_only=True)
class GridDecoderOp(AudioStudentOp):
    """A map of cells for each recording: depths, classes of pixels, a floor plan, voxels.

    Sound of several microphones tells most, with `phase`. Windows are averaged cell by cell.

    Attributes:
        size: Preset of the network that listens, the one of `audio_cnn`.
        grid_hw: Rows and columns of the map; of a slice, at least 2 to the power of `levels`.
        slices: How many slices of a volume, one below another, the map is made of.
        levels: How often the decoder doubles its grid.
        positive: Rows are made positive, for depths. Not with teachers of probabilities or of
            directions.

    The other settings are those of every student of sound (`AudioStudentOp`).
    """

    op: Literal["grid_decoder"] = "grid_decoder"
    grid_hw: tuple[int, int] = (16, 32)
    slices: int = 1
    levels: int = 3
    positive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.grid_hw, self.slices, self.levels)

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> GridDecoder:
        """A new network with random weights that gives `channels` columns in `space`.

        Raises:
            DataError: If `positive` is asked of rows that are probabilities or directions.
        """
        from detectors.audio_cnn import AudioCNN
        from detectors.grid_decoder import DenseGrid, GridDecoder

        if self.positive and space not in (None, "raw"):
            raise DataError(
                "op `grid_decoder`",
                wanted="teachers of plain rows, such as depths, for `positive: true`",
                got=f"teachers whose rows are {space}",
                fix="write positive: false, or teach this map by depths alone",
            )
        return GridDecoder(
            AudioCNN(*self.in_shape, self.size),
            channels,
            DenseGrid(self.grid_hw, self.slices, self.levels),
            space=space or "raw",
            positive=self.positive,
            dropout=self.dropout,
        )

    def __call__(self, net: GridDecoder, sound: Audio) -> Grids:
        """Maps of whole recordings, the mean over their windows; differentiable."""
        return cast("Grids", rows_of_clips(net, self.describe(sound)))
