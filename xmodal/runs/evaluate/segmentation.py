"""Segmentation of scenes, arm by arm: counts, tables with intervals, alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from xmodal.errors import DataError, UsageError
from xmodal.evaluate.segmentation import silent_classes
from xmodal.evaluate.tables import Table
from xmodal.runs.evaluate.arms import (
    ENSEMBLE,
    GIVEN,
    arms_of,
    ensemble_of,
    point_answer,
    single_view_tally,
)
from xmodal.runs.evaluate.given import given_answer
from xmodal.runs.evaluate.rendered import check_label_maps, rendered_tallies
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.summary import (
    Results,
    calibration_table,
    difference_table,
    metrics_table,
    protocol_table,
    scene_table,
)
from xmodal.runs.evaluate.tally import Answer, tally
from xmodal.runs.evaluate.truth import check_names, named_truth
from xmodal.runs.frozen import Reporter
from xmodal.runs.localise import SINGLE


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Tables by file name, what the figure shows, and what must not be overlooked."""

    tables: Mapping[str, Table]
    results: Mapping[str, Results]
    alarms: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list[str])


def segmentation(
    subjects: Sequence[Subject], request: EvalRequest, report: Reporter
) -> Segmentation:
    """Measure every arm on every scene.

    Raises:
        DataError: If a scene lacks what the protocol needs, or nothing that is named is labelled.
        UsageError: If names are unknown or another system's arrays do not fit.
    """
    names = class_names(subjects, request)
    base = base_classes(names, request.base)
    wanted_2d, wanted_3d = request.protocol != "3d", request.protocol != "2d"
    if wanted_2d:
        for subject in subjects:
            check_label_maps(subject)
    arms = [GIVEN] if request.given else arms_of(subjects)
    results: dict[str, Results] = {}
    notes: list[str] = []
    scenes = [subject.name for subject in subjects]
    for protocol, wanted in (("3d", wanted_3d), ("2d", wanted_2d)):
        if wanted:
            results[protocol] = Results(protocol, names, scenes, base, {arm: [] for arm in arms})
    with report("measure") as progress:
        for done, subject in enumerate(subjects):
            _measure(subject, request, arms, results, notes)
            progress(done + 1, len(subjects))
    return Segmentation(
        tables=_tables(results), results=results, alarms=_alarms(results), notes=notes
    )


def class_names(subjects: Sequence[Subject], request: EvalRequest) -> tuple[str, ...]:
    """Classes to tell apart: `--names`, else those of the run file, else the scenes' objects.

    Raises:
        DataError: If no scene has a labelled object.
        UsageError: If `--names` has a name that no scene knows.
    """
    known = tuple(dict.fromkeys(name for s in subjects for name in s.classes))
    for subject in subjects:
        _ = subject.truth  # without labels there is nothing to name
    opened = subjects[0].opened
    configured = () if opened is None else opened.spec.evaluation.names
    if request.names:
        check_names(request.names, known, "--names")
        return request.names
    # The names of a data set hold for all its scenes, though few occur in any one of them.
    if set(configured) & set(known):
        return tuple(dict.fromkeys(configured))
    names = tuple(dict.fromkeys(name for s in subjects for name in s.objects))
    if not names:
        raise DataError(
            ", ".join(s.name for s in subjects[:5]),
            wanted="points of at least one object, which is no floor, wall, ceiling or table",
            got=f"points of {', '.join(known[:8]) or 'no class'}",
            fix="say with --names which classes to tell apart",
        )
    return names


def base_classes(names: Sequence[str], base: Sequence[str]) -> Bool[NDArray[np.bool_], " K"] | None:
    """Which names were seen in training; None when the question is not asked.

    Raises:
        UsageError: If a base name is not measured, or none is left to be novel.
    """
    if not base:
        return None
    check_names(base, names, "--base")
    seen = np.array([name in base for name in names])
    if seen.all():
        raise UsageError(
            "--base",
            wanted="some of the names, so that the rest is novel",
            got=f"all {len(names)} names",
            fix="leave out the names that were not seen in training",
        )
    return seen


def _measure(
    subject: Subject,
    request: EvalRequest,
    arms: Sequence[str],
    results: Mapping[str, Results],
    notes: list[str],
) -> None:
    """Add one scene's counts to the results."""
    first = next(iter(results.values()))
    names = first.names
    truth = named_truth(subject.truth, subject.classes, names)
    if not (truth >= 0).any():
        if len(first.scenes) == 1:
            raise DataError(
                subject.name,
                wanted=f"labelled points of: {', '.join(names[:8])}",
                got="none on the points of the run",
                fix="choose with --names, or check that labels and points are of one scene",
            )
        notes.append(f"{subject.name}: no point of any named class")
    answers = _answers(subject, request, arms, names)
    if "3d" in results:
        for arm in arms:
            results["3d"].tallies[arm].append(
                single_view_tally(subject, truth, names)
                if arm == SINGLE
                else tally(answers[arm], truth, len(names))
            )
    if "2d" in results:
        found = rendered_tallies(subject, answers, names, single=SINGLE in arms)
        for arm in arms:
            results["2d"].tallies[arm].append(found.tallies[arm])
        notes.append(
            f"{subject.name}: {found.frames} labelled frames, {found.skipped} without a label map, "
            f"{found.covered:.1%} of the labelled pixels show a point"
        )


def _answers(
    subject: Subject, request: EvalRequest, arms: Sequence[str], names: Sequence[str]
) -> dict[str, Answer]:
    """What every arm but the single view says of every point."""
    answers: dict[str, Answer] = {}
    for arm in arms:
        if arm == GIVEN:
            answers[arm] = given_answer(request, subject, names)
        elif arm == ENSEMBLE:
            answers[arm] = ensemble_of(answers)
        elif arm != SINGLE:
            assert subject.opened is not None
            answers[arm] = point_answer(subject.opened, arm, names)
    return answers


def _tables(results: Mapping[str, Results]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for protocol, found in results.items():
        ending = "" if protocol == "3d" else "_2d"
        tables[f"metrics{ending}"] = metrics_table(found)
        if len(found.tallies) > 1:
            tables[f"differences{ending}"] = difference_table(found)
        if len(found.scenes) > 1:
            tables[f"scenes{ending}"] = scene_table(found)
        calibration = calibration_table(found)
        if calibration.rows:
            tables[f"calibration{ending}"] = calibration
    if len(results) > 1:
        tables["protocols"] = protocol_table(results)
    return tables


def _alarms(results: Mapping[str, Results]) -> list[str]:
    lines: list[str] = []
    for protocol, found in results.items():
        for arm in found.tallies:
            total = found.total(arm)
            silent = silent_classes(total.confusion, found.names)
            if silent:
                occurring = int((total.confusion.sum(1)[:-1] > 0).sum())
                lines.append(
                    f"ALARM {protocol} {arm}: zero IoU for {len(silent)} of {occurring} classes: "
                    + ", ".join(silent)
                )
    return lines
