"""Retrieval: from a text to a thing or a scene, and from a thing back to its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.evaluate.retrieval import first_hit_rank, recall_at
from xmodal.evaluate.tables import Table
from xmodal.query import Scores, text_relevancy
from xmodal.runs.evaluate.arms import asked_arms, class_scores, named_texts
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.evaluate.segmentation import class_names
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.truth import named_truth
from xmodal.runs.opened import OpenedRun

KS = (1, 5, 10)
# A scene is as relevant as its most relevant hundredth of points: a mug is a small part of a room.
_TOP_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class _Found:
    """Mean scores of the true point sets of one scene, their classes, and the scene's own."""

    sets: Float32[NDArray[np.float32], "S K"]
    classes: NDArray[np.int64]
    scene: Float32[NDArray[np.float32], " K"]


def retrieval_tables(subjects: Sequence[Subject], request: EvalRequest) -> dict[str, Table]:
    """R@K of every stored source, with the point set of each true object as the thing sought.

    A set scores the mean of its observed points. Texts look for sets over all scenes, sets look for
    their name among all names and, with several scenes, texts look for scenes that hold the thing.

    Raises:
        DataError: If no scene has a labelled object.
    """
    names = class_names(subjects, request)
    arms = asked_arms(subjects)
    rows: list[tuple[str | float | int, ...]] = []
    for arm in arms:
        found = [_score(subject, arm, names) for subject in subjects]
        sets = np.concatenate([part.sets for part in found])
        classes = np.concatenate([part.classes for part in found])
        if not len(classes):
            raise DataError(
                ", ".join(s.name for s in subjects[:5]),
                wanted=f"labelled points of: {', '.join(names[:8])}",
                got="none",
                fix="choose with --names",
            )
        owns = classes[:, None] == np.arange(len(names))
        rows.append(_row(arm, "text -> object", sets.T, owns.T))
        rows.append(_row(arm, "object -> text", sets, owns))
        if len(subjects) > 1:
            scenes = np.stack([part.scene for part in found])
            holds = np.stack([np.isin(np.arange(len(names)), part.classes) for part in found])
            # A thing that every scene has cannot be looked for.
            asked = ~holds.all(0)
            rows.append(_row(arm, "text -> scene", scenes.T[asked], holds.T[asked]))
    columns = ("arm", "direction", "queries", "among", *(f"R@{k}" for k in KS), "median rank")
    return {"retrieval": Table(f"Retrieval, {len(names)} names", columns, tuple(rows))}


def _row(
    arm: str, direction: str, scores: NDArray[np.float32], relevant: NDArray[np.bool_]
) -> tuple[str | float | int, ...]:
    ranks = first_hit_rank(scores, relevant)
    asked = ranks[ranks > 0]
    median = float(np.median(asked)) if len(asked) else float("nan")
    among = scores.shape[1] if scores.ndim == 2 else 0
    return (arm, direction, len(asked), among, *(recall_at(ranks, k) for k in KS), median)


def _score(subject: Subject, arm: str, names: Sequence[str]) -> _Found:
    assert subject.opened is not None
    scores = named_scores(subject.opened, arm, names)
    truth = named_truth(subject.truth, subject.classes, names)
    seen = np.isfinite(scores).all(1)
    present = [k for k in range(len(names)) if (truth == k).any()]
    sets = np.full((len(present), len(names)), np.nan, dtype=np.float32)
    for row, k in enumerate(present):
        members = (truth == k) & seen
        if members.any():
            sets[row] = scores[members].mean(0)
    best = np.sort(scores[seen], axis=0)[-max(1, int(_TOP_SHARE * seen.sum())) :]
    scene = best.mean(0) if len(best) else np.full(len(names), np.nan)
    return _Found(sets, np.array(present, dtype=np.int64), scene.astype(np.float32))


def named_scores(opened: OpenedRun, arm: str, names: Sequence[str]) -> Scores:
    """Score of every point for every name, NaN where not observed."""
    features = opened.features(arm)
    if features.info.classes:
        return class_scores(features, names)[:, : len(names)]
    teacher = opened.teacher_of(arm)
    return text_relevancy(features, teacher, named_texts(teacher, names))
