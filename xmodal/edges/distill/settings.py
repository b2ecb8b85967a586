"""What distillation ops have in common: their settings, and how a call comes to its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.meet import Pair, Rows, SetPair, meet, meet_sets, rendered
from xmodal.edges.distill.project import Project, projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.head import Head
    from xmodal.values import Embedding, Gaussians, Grids, Points, PointSets

Standardisation = Literal["none", "channel", "phi", "whiten"]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Settings of every distillation op.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        coverage_half: Coverage at which a row counts half as much as one seen without end; 0 counts
            every observed row the same.
        rows: `all` points, only those whose inputs were `masked` from the student, or only the
            `visible` rest.
        project: A learned layer from the student's width to the teacher's (`linear`, `mlp`,
            `orthogonal`, `memory`), or `none` where widths are equal.
    """

    weight: float = 1.0
    coverage_half: float = 1.0
    rows: Rows = "all"
    project: Project = "none"

    def __post_init__(self) -> None:
        check_distill(self.weight, self.coverage_half)

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The edge's `Head`, or None when there is nothing to learn or to keep."""
        return self._head(channels, teacher_channels)

    def _head(
        self,
        channels: int,
        teacher_channels: int,
        *,
        standardise: Standardisation = "none",
        log: bool = False,
    ) -> Head | None:
        layer = self._projection(channels, teacher_channels)
        state = self._state(teacher_channels)
        if layer is None and state is None and standardise == "none":
            return None
        from xmodal.edges.distill.head import Head
        from xmodal.losses import Standardise

        map_ = None if standardise == "none" else Standardise(teacher_channels, standardise)
        return Head(layer, map_, state, log=log)

    def _projection(self, channels: int, teacher_channels: int) -> nn.Module | None:
        return projection(self.project, channels, teacher_channels)

    def _state(self, teacher_channels: int) -> nn.Module | None:
        """What the loss keeps from step to step; nothing for most."""
        del teacher_channels
        return None


@dataclass(frozen=True, kw_only=True)
class PointsLoss(Loss, ABC):
    """Settings of losses between rows on the same points; see also `Loss`.

    Attributes:
        agreement_power: Rows weigh `(1 - disagreement)` of the teacher's views to this power; 0
            counts rows alike whether views agree or not.
    """

    agreement_power: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.agreement_power < float("inf"):
            msg = f"agreement_power must be 0 or more, not {self.agreement_power}"
            raise ValueError(msg)

    def __call__(
        self,
        teacher: Points | Gaussians | Embedding | Grids,
        student: Points | Gaussians | Embedding | Grids,
        *,
        net: nn.Module | None = None,
    ) -> Tensor:
        """The loss of the rows that the teacher observed, without the edge's `weight`."""
        pair = meet(
            teacher,
            student,
            coverage_half=self.coverage_half,
            agreement_power=self.agreement_power,
            rows=self.rows,
        )
        return self._loss(pair, net)

    @abstractmethod
    def _loss(self, pair: Pair, net: nn.Module | None) -> Tensor:
        """The loss of rows side by side; the student's are in its own width."""


@dataclass(frozen=True, kw_only=True)
class FeatureLoss(PointsLoss):
    """Settings of losses on features; see also `PointsLoss`.

    Attributes:
        standardise: Coordinates of the teacher that the loss is measured in: `none`, its own;
            `channel`, each channel by its mean and deviation; `phi`, centred, turned and scaled by
            one number so that all channels have variance 1; `whiten`, without correlations. They
            are fitted to the first rows of training. With `project` the learned layer gives rows in
            these coordinates, else both sides are mapped; `whiten` is meant for a layer, as it
            enlarges what the student gets wrong in directions that hardly vary.
        allow_simplex: Take teacher rows that are probabilities, too; `kl` is made for those.
    """

    standardise: Standardisation = "none"
    allow_simplex: bool = False

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that this loss takes."""
        return ("unit", "raw", "simplex") if self.allow_simplex else ("unit", "raw")

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The edge's `Head`, or None when there is nothing to learn or to keep."""
        return self._head(channels, teacher_channels, standardise=self.standardise)

    def _loss(self, pair: Pair, net: nn.Module | None) -> Tensor:
        teacher, student = compared(pair.teacher, pair.student, net)
        return self._compare(teacher, student, pair, getattr(net, "state", None))

    @abstractmethod
    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        """The loss of rows of one width; `pair` has their weights and segments."""


@dataclass(frozen=True, kw_only=True)
class SetLoss(Loss, ABC):
    """Settings of losses between sets of points and the student's points; see also `Loss`.

    The student's rows are averaged over each set.

    Attributes:
        standardise: See `FeatureLoss`.
        allow_simplex: Take teacher rows that are probabilities, too.
        decode: Where the projection works: on each of the `points`, or once on the average over a
            set (`sets`), as renderers decode a pixel.
    """

    standardise: Standardisation = "none"
    allow_simplex: bool = False
    decode: Literal["points", "sets"] = "points"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decode == "sets" and self.project == "none":
            msg = "decode: sets says where the projection works, but project is none"
            raise ValueError(msg)

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that this loss takes."""
        return ("unit", "raw", "simplex") if self.allow_simplex else ("unit", "raw")

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The edge's `Head`, or None when there is nothing to learn or to keep."""
        return self._head(channels, teacher_channels, standardise=self.standardise)

    def __call__(
        self, teacher: PointSets, student: Points | Gaussians, *, net: nn.Module | None = None
    ) -> Tensor:
        """The loss of the sets that count, without the edge's `weight`."""
        pair = meet_sets(teacher, student, coverage_half=self.coverage_half, rows=self.rows)
        return self._loss(rendered(pair) if self.decode == "sets" else pair, net)

    @abstractmethod
    def _loss(self, pair: SetPair, net: nn.Module | None) -> Tensor:
        """The loss of sets; the student's rows are in its own width."""


def compared(teacher: Tensor, student: Tensor, net: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Rows of both sides as a loss compares them, through the edge's net if it has one."""
    if net is None:
        return teacher, student
    from xmodal.edges.distill.head import Head

    if isinstance(net, Head):
        return net.meet(teacher, student)
    return teacher, net(student)


def probabilities(student: Tensor, net: nn.Module | None) -> Tensor:
    """A student's probabilities: its rows, or the soft-max of what the edge's net makes of them."""
    if net is None or getattr(net, "project", net) is None:
        return student
    return net(student).softmax(dim=1)


def check_distill(weight: float, coverage_half: float) -> None:
    """Refuse settings that no loss can have.

    Raises:
        ValueError: If the weight is not above 0 or `coverage_half` is negative, or not finite.
    """
    if not 0 < weight < float("inf"):
        msg = f"weight must be above 0, not {weight}; drop the edge to switch it off"
        raise ValueError(msg)
    if not 0 <= coverage_half < float("inf"):
        msg = f"coverage_half must be 0 or more, not {coverage_half}"
        raise ValueError(msg)


def need_state(state: nn.Module | None, name: str) -> nn.Module:
    """What a loss keeps from step to step.

    Raises:
        TypeError: If the op is called without the module that its `build` made.
    """
    if state is None:
        msg = f"`{name}` keeps a state: pass the module that `build` made as `net`"
        raise TypeError(msg)
    return state
