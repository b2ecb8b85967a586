"""Measures, as pure functions on arrays; each says where it comes from.

What is undefined is NaN, never 0. `xmodal.runs.evaluate` applies them to runs.
"""

from xmodal.evaluate.calibration import Reliability, class_reliability, reliability
from xmodal.evaluate.intervals import bootstrap, interval, resampled, scene_draws
from xmodal.evaluate.localisation import Box, Hit, localise
from xmodal.evaluate.matching import cluster_overlap, k_means, match_clusters
from xmodal.evaluate.ranking import (
    InstanceHits,
    average_precision,
    average_precision_per_class,
    instance_average_precision,
    instance_hits,
)
from xmodal.evaluate.retrieval import first_hit_rank, recall_at
from xmodal.evaluate.segmentation import (
    OTHER,
    UNKNOWN,
    accuracy_per_class,
    assign,
    confusion,
    frequency_weighted_iou,
    harmonic_iou,
    iou_of_occurring,
    iou_per_class,
    mean_known,
    overall_accuracy,
    silent_classes,
)
from xmodal.evaluate.tables import Table

__all__ = [
    "OTHER",
    "UNKNOWN",
    "Box",
    "Hit",
    "InstanceHits",
    "Reliability",
    "Table",
    "accuracy_per_class",
    "assign",
    "average_precision",
    "average_precision_per_class",
    "bootstrap",
    "class_reliability",
    "cluster_overlap",
    "confusion",
    "first_hit_rank",
    "frequency_weighted_iou",
    "harmonic_iou",
    "instance_average_precision",
    "instance_hits",
    "interval",
    "iou_of_occurring",
    "iou_per_class",
    "k_means",
    "localise",
    "match_clusters",
    "mean_known",
    "overall_accuracy",
    "recall_at",
    "reliability",
    "resampled",
    "scene_draws",
    "silent_classes",
]
