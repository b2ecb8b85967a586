"""The op `spatial_matching`: a student's maps of several layers meet the teacher's dense map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from xmodal.edges.distill.settings import check_distill, need_state
from xmodal.errors import ConfigError, DataError
from xmodal.loss_checks import check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.losses import SpatialMatching as Matching
    from xmodal.values import Grids


@dataclass(frozen=True, kw_only=True)
class SpatialMatching:
    """Places of the student's inner maps are matched with those of the teacher, then compared.

    Beside a loss on the student's own dense map, which this one helps to learn.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        layers: How many of the student's maps are matched, the last ones.
        width: Width of the learnt embedding of a place.
        compare: `mse`, or `cosine` for features and classes.

    Source:
        See `xmodal.losses.SpatialMatching`.
    """

    op: Literal["spatial_matching"] = "spatial_matching"
    weight: float = 1.0
    layers: int = 3
    width: int = 32
    compare: Literal["mse", "cosine"] = "mse"

    any_width: ClassVar[bool] = True
    needs_maps: ClassVar[bool] = True
    teacher_spaces: ClassVar[tuple[str, ...]] = ("unit", "raw", "simplex")

    def __post_init__(self) -> None:
        check_distill(self.weight, 0.0)
        check_counts(layers=self.layers, width=self.width)

    def build(self, *, teacher_channels: int, student: nn.Module) -> Matching:
        """New embeddings of places for the student's maps.

        Args:
            teacher_channels: Channels of the teacher's map.
            student: The student's network.

        Raises:
            ConfigError: If it has no dense maps, or fewer of them.
        """
        from xmodal.losses import SpatialMatching as Matching

        net = cast("Any", student)
        sides: list[tuple[int, int]] = list(getattr(net, "sides", ()))
        if len(sides) < self.layers:
            raise ConfigError(
                "distill, spatial_matching",
                wanted=f"a student with {self.layers} dense maps inside, such as `grid_decoder`",
                got=f"{type(student).__name__} with {len(sides)}",
                fix="choose another student, or fewer `layers`",
            )
        return Matching(
            net.map_channels[-self.layers :],
            teacher_channels,
            sides[-self.layers :],
            width=self.width,
        )

    def __call__(self, teacher: Grids, student: Grids, *, net: nn.Module | None = None) -> Tensor:
        """The loss of the cells that the teacher observed, without the edge's `weight`.

        Raises:
            DataError: If the student's maps are not given.
            TypeError: If it is called without the module that `build` made.
        """
        module = cast("Matching", need_state(net, self.op))
        if student.maps is None:
            raise DataError(
                "distillation by `spatial_matching`",
                wanted="the student's inner maps",
                got="its dense map alone",
                fix="let the student be a network over recordings, such as `grid_decoder`",
            )
        height, columns = teacher.grid_hw
        shape = (-1, height, columns)
        has = student.valid.view(len(student.offsets) - 1, -1).any(dim=1)
        valid = (teacher.valid & (teacher.weight > 0)).view(shape) & has[:, None, None]
        told = teacher.rows.view(*shape, teacher.rows.shape[1]).permute(0, 3, 1, 2)
        maps = [one.float() for one in student.maps[-self.layers :]]
        return module(told, maps, valid=valid, compare=self.compare)
