"""The op `spatial_matching`: a student's inner maps meet the teacher's, whatever their axes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from xmodal.edges.distill.settings import check_distill, need_state
from xmodal.errors import ConfigError, DataError
from xmodal.loss_checks import check_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from xmodal.losses import MatchedTeachers
    from xmodal.losses import SpatialMatching as Matching
    from xmodal.values import Grids


@dataclass(frozen=True, kw_only=True)
class SpatialMatching:
    """Places of the student's inner maps are matched with those of the teacher, then compared.

    Beside a loss on the student's own dense map, which this one helps to learn. A teacher that is a
    network of this graph with dense maps inside, such as `panorama_net`, is met layer by layer; of
    another one, such as a recorded map, the dense map is met at the sizes of the student's layers.
    Of several teachers, `a, b -> student`, the mean counts.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        layers: How many of the student's maps are matched, the last ones.
        most_cells: Maps with more cells than this are left out, before layers are counted: cost
            grows with the square of it.
        width: Width of the learnt embedding of a place.
        compare: `mse`, or `cosine` for features and classes.

    Source:
        See `xmodal.losses.SpatialMatching`.
    """

    op: Literal["spatial_matching"] = "spatial_matching"
    weight: float = 1.0
    layers: int = 3
    most_cells: int = 1024
    width: int = 32
    compare: Literal["mse", "cosine"] = "mse"

    any_width: ClassVar[bool] = True
    needs_maps: ClassVar[bool] = True
    teacher_spaces: ClassVar[tuple[str, ...]] = ("unit", "raw", "simplex")

    def __post_init__(self) -> None:
        check_distill(self.weight, 0.0)
        check_counts(layers=self.layers, width=self.width, most_cells=self.most_cells)

    def build(
        self,
        *,
        source_channels: tuple[int, ...],
        student: nn.Module,
        teachers: Sequence[nn.Module | None] = (),
    ) -> MatchedTeachers:
        """New embeddings of places for the student's maps.

        Args:
            source_channels: Channels of each teacher's map.
            student: The student's network.
            teachers: Those teachers' networks that are trained here; None for others.

        Raises:
            ConfigError: If a network has no dense maps, or fewer of them.
        """
        from xmodal.losses import MatchedTeachers
        from xmodal.losses import SpatialMatching as Matching

        mine, own = self._layers(student, "a student"), cast("Any", student)
        parts: list[Matching] = []
        theirs: list[list[int] | None] = []
        for index, channels in enumerate(source_channels):
            teacher: Any = teachers[index] if index < len(teachers) else None
            inner = None
            if hasattr(teacher, "sides"):
                inner = self._layers(teacher, "a teacher")
            parts.append(
                Matching(
                    [own.map_channels[i] for i in mine],
                    channels if inner is None else [teacher.map_channels[i] for i in inner],
                    [(own if inner is None else teacher).sides[i] for i in inner or mine],
                    width=self.width,
                )
            )
            theirs.append(inner)
        return MatchedTeachers(parts, mine, theirs)

    def _layers(self, net: nn.Module, who: str) -> list[int]:
        """Numbers of the maps that are matched."""
        sides: list[tuple[int, int]] = list(getattr(net, "sides", ()))
        small = [i for i, (rows, columns) in enumerate(sides) if rows * columns <= self.most_cells]
        if len(small) < self.layers:
            raise ConfigError(
                "distill, spatial_matching",
                wanted=f"{who} with {self.layers} dense maps of up to {self.most_cells} cells "
                "inside, such as `grid_decoder`",
                got=f"{type(net).__name__} with {len(small)}",
                fix="choose another network, fewer `layers` or more `most_cells`",
            )
        return small[-self.layers :]

    def __call__(self, *maps: Grids, net: nn.Module | None = None) -> Tensor:
        """The loss of the cells that the teachers observed, without the edge's `weight`.

        Args:
            maps: Teachers in the order of the edge, then the student.
            net: What `build` made.

        Raises:
            DataError: If inner maps are not given.
            TypeError: If it is called without the module that `build` made.
        """
        import torch

        module = cast("MatchedTeachers", need_state(net, self.op))
        *teachers, student = maps
        mine = _inner(student, module.student_layers, "student")
        has = student.valid.view(len(student.offsets) - 1, -1).any(dim=1)
        found: list[Tensor] = []
        for teacher, layers, part in zip(
            teachers, module.teacher_layers, module.parts, strict=True
        ):
            shape = (-1, *teacher.grid_hw)
            valid = (teacher.valid & (teacher.weight > 0)).view(shape) & has[:, None, None]
            told: Any = teacher.rows.view(*shape, teacher.rows.shape[1]).permute(0, 3, 1, 2)
            if layers is not None:
                told = _inner(teacher, layers, "teacher")
            found.append(cast("Matching", part)(told, mine, valid=valid, compare=self.compare))
        return torch.stack(found).mean()


def _inner(value: Grids, layers: Sequence[int], who: str) -> list[Tensor]:
    if value.maps is None:
        raise DataError(
            "distillation by `spatial_matching`",
            wanted=f"the {who}'s inner maps",
            got="its dense map alone",
            fix=f"let the {who} be a network over recordings, such as `grid_decoder`",
        )
    return [value.maps[i].float() for i in layers]
