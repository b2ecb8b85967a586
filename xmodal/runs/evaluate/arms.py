"""The systems that are compared: each view alone, every stored source, and their ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from lifting.visibility import visible_points
from xmodal.datasets.class_text import class_texts
from xmodal.errors import UsageError
from xmodal.evaluate.segmentation import Ids
from xmodal.query import Scores, text_relevancy
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.tally import (
    Answer,
    Floats,
    Tally,
    answer,
    most_confident,
    no_tally,
    tally,
)
from xmodal.runs.localise import SINGLE
from xmodal.runs.opened import OpenedRun
from xmodal.runs.query import pixel_taps
from xmodal.runs.settings import teacher_edge
from xmodal.store import Features
from xmodal.teachers import Teacher
from xmodal.teachers.teacher import no_text
from xmodal.values import FeatureMap, Masks

ENSEMBLE = "ensemble"
GIVEN = "given"
_PARTS = ("lifted", "student")


def arms_of(subjects: Sequence[Subject]) -> list[str]:
    """Systems that can answer in every scene, in the order of the tables.

    Raises:
        UsageError: If there is none.
    """
    opened = [subject.opened for subject in subjects]
    if any(run is None for run in opened):
        return [GIVEN]
    runs = [run for run in opened if run is not None]
    sources = [s for s in _sources(runs[0]) if all(run.run.has(s) for run in runs)]
    reasons = [(source, _mute(runs[0], source)) for source in sources]
    sources = [source for source, reason in reasons if reason is None]
    if not sources:
        found = next((reason for _, reason in reasons if reason is not None), None)
        raise found or _unlike(runs)
    arms: list[str] = []
    if all(s.scene is not None and _sees(run) for s, run in zip(subjects, runs, strict=True)):
        arms.append(SINGLE)
    arms += sources
    if all(p in sources and not runs[0].run.info(p).classes for p in _PARTS):
        arms.append(ENSEMBLE)
    return arms


def _unlike(runs: Sequence[OpenedRun]) -> UsageError:
    return UsageError(
        str(runs[0].run.path),
        wanted="features that every scene has",
        got="; ".join(f"{r.run.path.name}: {', '.join(r.run.sources())}" for r in runs[:4]),
        fix="choose scenes that were lifted alike, with --split",
    )


def asked_arms(subjects: Sequence[Subject]) -> list[str]:
    """Stored sources that can be asked by text, each by itself."""
    return [arm for arm in arms_of(subjects) if arm not in (SINGLE, ENSEMBLE)]


def stored_arms(subjects: Sequence[Subject]) -> list[str]:
    """Sources that every scene has, whether or not they can be asked by text.

    Raises:
        UsageError: If there is none.
    """
    runs = [subject.opened for subject in subjects if subject.opened is not None]
    if len(runs) < len(subjects):
        return [GIVEN]
    sources = [s for s in _sources(runs[0]) if all(run.run.has(s) for run in runs)]
    if not sources:
        raise _unlike(runs)
    return sources


def _sources(opened: OpenedRun) -> list[str]:
    """Stored features of points, but for those that were made from the labels themselves."""
    graph = opened.spec.graph
    labels = {name for name, node in graph.sensors().items() if node.kind == "labels"}
    return [
        name
        for name in opened.run.sources()
        if opened.run.info(name).kind == "points"
        and not (name in graph.nodes and graph.upstream(name) & labels)
    ]


def _mute(opened: OpenedRun, source: str) -> UsageError | None:
    """Why a source cannot be asked by text; None if it can."""
    if opened.run.info(source).classes:
        return None
    try:
        teacher = opened.teacher_of(source)
    except UsageError as error:  # several teachers
        return error
    try:
        teacher.encode_text(["thing"])
    except UsageError as error:
        # A teacher with a closed list of classes understands some texts, though not this one.
        return error if error.wanted == no_text("").wanted else None
    return None


def _sees(opened: OpenedRun) -> bool:
    """Whether one teacher that understands text saw the frames themselves, not crops of things."""
    if "lifted" not in opened.run.sources() or _mute(opened, "lifted") is not None:
        return False
    return teacher_edge(opened.spec.graph).verb == "encode"


def named_texts(teacher: Teacher, names: Sequence[str]) -> list[str]:
    """What a teacher is asked for each class: its name in plain words, with synonyms.

    A teacher with a closed list of classes is asked by the name as it stands.
    """
    texts: list[str] = []
    for name, text in zip(names, class_texts(names), strict=True):
        try:
            teacher.encode_text([text])
        except UsageError:
            texts.append(name)
        else:
            texts.append(text)
    return texts


def others(teacher: Teacher, texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Texts that stand for everything else, without the named classes.

    A teacher with a closed list of classes knows only some of them; the others are left out.
    """
    known: list[str] = []
    for text in texts:
        if text in names:
            continue
        try:
            teacher.encode_text([text])
        except UsageError:
            continue
        known.append(text)
    return known


def point_answer(opened: OpenedRun, arm: str, names: Sequence[str]) -> Answer:
    """What a stored source says of every point of the run."""
    features = opened.features(arm)
    if features.info.classes:
        return answer(class_scores(features, names), len(names))
    teacher = opened.teacher_of(arm)
    texts = [*named_texts(teacher, names), *others(teacher, opened.spec.evaluation.other, names)]
    return answer(text_relevancy(features, teacher, texts), len(names))


def ensemble_of(answers: Mapping[str, Answer]) -> Answer:
    """The ensemble of the lifted features and the student."""
    return most_confident(*(answers[part] for part in _PARTS))


def class_scores(features: Features, names: Sequence[str]) -> Scores:
    """Columns of a classifier in the order of `names`, then those of its other classes.

    A name that the classifier does not know scores 0.

    Raises:
        UsageError: If it knows none of them.
    """
    classes = features.info.classes
    if not set(names) & set(classes):
        raise UsageError(
            f"source with classes {', '.join(classes[:8])}",
            wanted=f"a class among: {', '.join(names[:8])}",
            got="none of them",
            fix="choose names that the classifier was trained on, with --names",
        )
    rest = [i for i, name in enumerate(classes) if name not in names]
    out = np.full((len(features.valid), len(names) + len(rest)), np.nan, dtype=np.float32)
    for part, rows in features.blocks():
        for column, name in enumerate(names):
            known = classes.index(name) if name in classes else None
            out[part, column] = 0.0 if known is None else rows[:, known]
        out[part, len(names) :] = rows[:, rest]
    out[~np.asarray(features.valid)] = np.nan
    return out


def asked_texts(subject: Subject, names: Sequence[str]) -> list[str]:
    """The names, and what stands for "other", as the teacher of the views is asked."""
    opened = subject.opened
    assert opened is not None
    others_ = others(opened.teacher, opened.spec.evaluation.other, names)
    return [*named_texts(opened.teacher, names), *others_]


def view_scores(
    opened: OpenedRun,
    view: FeatureMap | Masks,
    texts: list[str],
    uv: Float32[Floats, "P 2"],
) -> Scores:
    """What the teacher says of pixels of one view alone, NaN where it sees nothing."""
    import torch

    if not len(view.rows) or not len(uv):
        return np.full((len(uv), len(texts)), np.nan, dtype=np.float32)
    taps = pixel_taps(view, torch.from_numpy(uv))
    scores = taps.apply(opened.teacher.relevancy(view.rows, texts, [])).numpy()
    scores[taps.row_sum().numpy() == 0] = np.nan
    return scores


def single_view_tally(subject: Subject, truth: Int64[Ids, " N"], names: Sequence[str]) -> Tally:
    """Every (view, visible point) pair, judged by that view's teacher output alone."""
    total = no_tally(len(names))
    for index, given in _views(subject, names):
        total = total + tally(given, truth[index], len(names), ranked=False)
    return total


def _views(subject: Subject, names: Sequence[str]) -> Iterator[tuple[Ids, Answer]]:
    opened = subject.opened
    assert opened is not None
    texts = asked_texts(subject, names)
    for index in range(len(opened.scene.images)):
        view = opened.teacher_view(opened.scene.images[index])
        depth = opened.scene.depth(index)
        seen = visible_points(
            opened.cloud.xyz,
            view.camera,
            depth_m=depth.depth_m if depth else None,
            depth_camera=depth.camera if depth else None,
        )
        # A view without a mask sees nothing, and says "other" of nothing.
        if not len(seen.index) or not len(view.rows):
            continue
        scores = view_scores(opened, view, texts, seen.uv.numpy())
        yield seen.index.numpy(), answer(scores, len(names))
