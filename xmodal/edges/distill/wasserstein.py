"""The op `wasserstein`: contrast by how far distributions of rows lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss, need_state
from xmodal.loss_checks import check_counts, check_sinkhorn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Wasserstein(FeatureLoss):
    """Wasserstein contrast between teacher and student rows.

    Attributes:
        form: `dual`: a critic of Lipschitz constant 1 tells rows that belong together from others.
            `primal`: the student's rows move onto the teacher's by least transport, whatever their
            order; use it beside another edge.
        rows_cap: Most rows compared; memory is its square, and time too for `primal`.
        epsilon: Strength of the entropy for `primal`, in cosines.
        iterations: Sinkhorn updates for `primal`.
        critic_width: Width of the critic for `dual`.
    """

    op: Literal["wasserstein"] = "wasserstein"
    form: Literal["primal", "dual"] = "dual"
    rows_cap: int = 256
    epsilon: float = 0.05
    iterations: int = 50
    critic_width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(rows_cap=self.rows_cap, critic_width=self.critic_width)
        check_sinkhorn(self.epsilon, self.iterations)

    def _state(self, teacher_channels: int) -> nn.Module | None:
        if self.form != "dual":
            return None
        from xmodal.losses import LipschitzCritic

        return LipschitzCritic(teacher_channels, self.critic_width)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        if self.form == "dual":
            critic = need_state(state, self.op)
            return critic(teacher, student, weight=pair.weight, rows_cap=self.rows_cap)
        return losses.wasserstein(
            teacher,
            student,
            weight=pair.weight,
            epsilon=self.epsilon,
            iterations=self.iterations,
            rows_cap=self.rows_cap,
        )
