"""The op `ensemble`: a student learns what several teachers answer together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.kl import Divergence
from xmodal.edges.distill.meet import meet
from xmodal.edges.distill.settings import probabilities
from xmodal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Embedding


@dataclass(frozen=True, kw_only=True)
class Ensemble(Divergence):
    """Kullback-Leibler divergence from the mean of several teachers' probabilities, `a, b -> c`.

    A teacher that a recording lacks is left out of the mean. The other settings are those of
    `Divergence`.

    Attributes:
        shares: How much each teacher counts, in the order of the edge; all alike if empty.
        mean: Of the teachers' `logits` (the mean of the logarithms of their probabilities), or of
            their `probabilities`. One sure teacher can veto a class in the first, not in the other.

    Source:
        Radevski et al., Multimodal Distillation for Egocentric Action Recognition, ICCV 2023,
        section 3, with shares that are given.
    """

    op: Literal["ensemble"] = "ensemble"
    shares: tuple[float, ...] = ()
    mean: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < share < math.inf for share in self.shares):
            raise ValueError(
                f"shares must be above 0, one for each teacher, not {list(self.shares)}; leave out "
                "a teacher that is not to count"
            )

    def build(
        self,
        *,
        channels: int,
        teacher_channels: int,
        source_channels: tuple[int, ...] = (),
        space: Literal["unit", "simplex", "raw"] | None = "simplex",
    ) -> nn.Module | None:
        """The projection, or None for `project: none`; `space` is that of the student's rows.

        Raises:
            ConfigError: If there is one teacher only, there are other shares than teachers, or
                teachers have different classes.
        """
        if len(source_channels) < 2 or len(self.shares) not in (0, len(source_channels)):
            raise ConfigError(
                "distill, ensemble",
                wanted="two teachers or more, such as `a, b -> student`, and a share for each",
                got=f"{len(source_channels)} teachers, {len(self.shares)} shares",
                fix="name more teachers or leave out `shares`; one teacher alone has `op: kl`",
            )
        if len(set(source_channels)) != 1:
            raise ConfigError(
                "distill, ensemble",
                wanted="teachers of the same classes",
                got=f"{', '.join(map(str, source_channels))} channels",
                fix="give the teachers' nodes the same `channels`",
            )
        return super().build(channels=channels, teacher_channels=teacher_channels, space=space)

    def __call__(self, *rows: Embedding, net: nn.Module | None = None) -> Tensor:
        """The loss, without the edge's `weight`.

        Args:
            rows: Teachers in the order of the edge, then the student.
            net: What `build` made.

        Raises:
            DataError: If they are of different numbers of recordings.
        """
        from xmodal import losses

        *teachers, student = rows
        together = _together(teachers, self.shares, logits=self.mean == "logits")
        pair = meet(together, student, coverage_half=self.coverage_half, rows=self.rows)
        given = probabilities(pair.student, net)
        return losses.kl(pair.teacher, given, weight=pair.weight, temperature=self.temperature)


def _together(teachers: list[Embedding], shares: tuple[float, ...], *, logits: bool) -> Embedding:
    """What teachers say together, of every recording that one of them knows."""
    from dataclasses import replace

    import torch

    from xmodal.losses import LEAST_PROBABILITY

    sizes = [len(one.rows) for one in teachers]
    if len(set(sizes)) != 1:
        raise DataError(
            "distillation by `ensemble`",
            wanted="teachers with a row for each recording",
            got=f"{', '.join(map(str, sizes))} rows",
            fix="let all of them see whole recordings, or windows of one length",
        )
    there = torch.stack([one.valid & (one.weight > 0) for one in teachers])
    given = there.new_tensor(shares or [1.0] * len(teachers), dtype=teachers[0].rows.dtype)
    count = there * given[:, None]
    share = (count / count.sum(dim=0).clamp_min(torch.finfo(count.dtype).tiny))[:, :, None]
    # Not a product: a row that is missing may hold NaN.
    rows = torch.stack([one.rows for one in teachers])
    rows = torch.where(there[:, :, None], rows, torch.ones_like(rows))
    if logits:
        mean = (share * rows.clamp_min(LEAST_PROBABILITY).log()).sum(dim=0).softmax(dim=1)
    else:
        mean = (share * rows).sum(dim=0)
    weight = torch.stack([one.weight for one in teachers]).amax(dim=0)
    return replace(teachers[0], rows=mean, valid=there.any(dim=0), weight=weight)
