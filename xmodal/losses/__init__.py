"""Distillation losses: how far a student's rows are from its teacher's.

Each is written once for every modality, on rows with `valid` and `weight`. A row that was not
observed (`valid` False or weight 0) is taken out before anything is computed from it; so is a
teacher row that says nothing. With no row left the loss is 0 and its gradient too. NaN in an
observed row gives a loss of NaN. What must last from step to step (a queue, class means) is a
module with buffers.
"""

from xmodal.losses.contrast import QueueContrast, info_nce, sampled_info_nce
from xmodal.losses.correlation import correlation
from xmodal.losses.decoupled import decoupled, multi_scale
from xmodal.losses.dimensions import SharedDimensions
from xmodal.losses.direction_norm import DirectionNorm
from xmodal.losses.fused import cosine, kl
from xmodal.losses.grouped import mask_contrast
from xmodal.losses.pooled import (
    agreement,
    part_distill,
    pool_segments,
    pool_sets,
    segment_contrast,
    set_contrast,
    set_cosine,
)
from xmodal.losses.queue import QueueSimilarity
from xmodal.losses.relational import affinity, similarity
from xmodal.losses.routed import RoutedTeachers
from xmodal.losses.rows import LEAST_PROBABILITY
from xmodal.losses.rowwise import mse, smooth_l1
from xmodal.losses.shown import shown_rows
from xmodal.losses.spatial_matching import MatchedTeachers, SpatialMatching
from xmodal.losses.standardise import Standardise
from xmodal.losses.wasserstein import LipschitzCritic, sinkhorn, wasserstein
from xmodal.losses.weighted_contrast import cwcl

__all__ = [
    "LEAST_PROBABILITY",
    "DirectionNorm",
    "LipschitzCritic",
    "MatchedTeachers",
    "QueueContrast",
    "QueueSimilarity",
    "RoutedTeachers",
    "SharedDimensions",
    "SpatialMatching",
    "Standardise",
    "affinity",
    "agreement",
    "correlation",
    "cosine",
    "cwcl",
    "decoupled",
    "info_nce",
    "kl",
    "mask_contrast",
    "mse",
    "multi_scale",
    "part_distill",
    "pool_segments",
    "pool_sets",
    "sampled_info_nce",
    "segment_contrast",
    "set_contrast",
    "set_cosine",
    "shown_rows",
    "similarity",
    "sinkhorn",
    "smooth_l1",
    "wasserstein",
]
