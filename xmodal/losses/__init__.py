"""Distillation losses: how far a student's rows are from its teacher's.

Each is written once for every modality, on rows with `valid` and `weight`. A row that was not
observed (`valid` False or weight 0) is taken out before anything is computed from it; so is a
teacher row that says nothing. With no row left the loss is 0 and its gradient too. NaN in an
observed row gives a loss of NaN. What must last from step to step (a queue, class means) is a
module with buffers.
"""

from xmodal.losses.rows import LEAST_PROBABILITY
from xmodal.losses.rowwise import cosine, kl, mse, smooth_l1

__all__ = ["LEAST_PROBABILITY", "cosine", "kl", "mse", "smooth_l1"]
