"""The op `routed`: several teachers of one student, the best of them for each recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from xmodal.edges.distill.settings import check_distill, need_state
from xmodal.errors import ConfigError, DataError
from xmodal.loss_checks import check_counts, check_routing, check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.losses import RoutedTeachers
    from xmodal.values import Embedding


@dataclass(frozen=True, kw_only=True)
class Routed:
    """A contrast with each of several teachers, `a, b -> student`, weighted by a router.

    Teachers may have any width and space, and miss recordings.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        temperature: Divides cosines.
        top: Teachers of a recording that the student learns from.
        drop: In training, each teacher of a recording is hidden with this chance; one stays.
        balance: Factor of what keeps the router from forgetting a teacher; 0 lets it.
        mask: Whether channels of teachers are masked by what the student can tell.
        hidden_channels: Width of the router's hidden layer.

    Source:
        See `xmodal.losses.RoutedTeachers`.
    """

    op: Literal["routed"] = "routed"
    weight: float = 1.0
    temperature: float = 0.1
    top: int = 1
    drop: float = 0.0
    balance: float = 0.1
    mask: bool = True
    hidden_channels: int = 64

    any_width: ClassVar[bool] = True
    teacher_spaces: ClassVar[tuple[str, ...]] = ("unit", "raw", "simplex")

    def __post_init__(self) -> None:
        check_distill(self.weight, 0.0)
        check_temperature(self.temperature)
        check_routing(self.top, self.drop, self.balance)
        check_counts(hidden_channels=self.hidden_channels)

    def build(self, *, channels: int, source_channels: tuple[int, ...]) -> RoutedTeachers:
        """A new router, masks and layers to the teachers' widths.

        Raises:
            ConfigError: If there is one teacher only.
        """
        from xmodal.losses import RoutedTeachers

        if len(source_channels) < 2:
            raise ConfigError(
                "distill, routed",
                wanted="two teachers or more, such as `a, b -> student`",
                got=f"{len(source_channels)}",
                fix="name more teachers, or choose a loss with one, such as `info_nce`",
            )
        return RoutedTeachers(
            channels, source_channels, hidden=self.hidden_channels, mask=self.mask
        )

    def __call__(self, *rows: Embedding, net: nn.Module | None = None) -> Tensor:
        """The loss, without the edge's `weight`.

        Args:
            rows: Teachers in the order of the edge, then the student.
            net: What `build` made.

        Raises:
            DataError: If they are of different numbers of recordings.
            TypeError: If it is called without the module that `build` made.
        """
        import torch

        module = cast("RoutedTeachers", need_state(net, self.op))
        *teachers, student = rows
        sizes = [len(one.rows) for one in rows]
        if len(set(sizes)) != 1:
            raise DataError(
                "distillation by `routed`",
                wanted="teachers and a student with a row for each recording",
                got=f"{', '.join(map(str, sizes))} rows",
                fix="let all of them see whole recordings, or windows of one length",
            )
        marks = [one.valid & (one.weight > 0) & student.valid for one in teachers]
        return module(
            [one.rows for one in teachers],
            student.rows,
            torch.stack(marks, dim=1),
            temperature=self.temperature,
            top=self.top,
            drop=self.drop,
            balance=self.balance,
        )
