"""The op `ema`: a slow copy of a student that teaches the student itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from xmodal.values import Embedding, Grids, Points


@dataclass(frozen=True, kw_only=True)
class Ema:
    """What an exponential moving average of a student's weights gives on the same points.

    In training, the average follows the student after each step and its rows teach without a
    gradient. After training, the node is the student's own rows.

    Attributes:
        decay: Share of the average that stays at each step.
        view: What the average sees: `global`, a larger crop around the student's, or all windows
            of a recording; `same`, the student's own.

    Source:
        Tarvainen and Valpola, Mean Teachers are Better Role Models, NeurIPS 2017, section 2;
        global to local: Caron et al., DINO, ICCV 2021, section 3.1.
    """

    op: Literal["ema"] = "ema"
    decay: float = 0.996
    view: Literal["global", "same"] = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")

    def __call__(self, student: Points | Embedding | Grids) -> Points | Embedding | Grids:
        """The student's rows, without a way back for gradients."""
        rows = None if student.rows is None else student.rows.detach()
        return replace(student, rows=rows)
