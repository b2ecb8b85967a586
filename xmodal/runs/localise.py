"""Localisation: does the pixel of highest relevancy lie on the thing that was asked for?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from xmodal.datasets import FrameBoxes, Scene
from xmodal.errors import DataError, UsageError
from xmodal.evaluate import Hit, Table, bootstrap, interval, localise, resampled, scene_draws
from xmodal.query import ensemble, row_scores, vector_scores
from xmodal.render import peak_pixel
from xmodal.runs.opened import OpenedRun
from xmodal.runs.query import feature_at, teacher_image
from xmodal.splats.drawing import SplatRenderer

SINGLE = "single view"
ENSEMBLE = "ensemble"
# Beside the name of a source of splats: its rows are drawn and then asked, not asked and drawn.
RENDERED = ", rendered"

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One frame and one question, judged for each arm."""

    frame: str
    text: str
    hits: Mapping[str, Hit]
    scene: str = ""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions put to rows of features, one column each.

    Attributes:
        column: Column of each (frame, text).
        score: Scores `[M, Q]` in [0, 1] of rows `[M, C]`.
        kind: `text` or `click`.
        texts: The text of each column, for questions by text.
    """

    column: Mapping[tuple[str, str], int]
    score: Score
    kind: str
    texts: tuple[str, ...] = ()


def localisation_tables(parts: Sequence[tuple[OpenedRun, Scene]]) -> dict[str, Table]:
    """Localisation accuracy per arm with intervals, and every pair.

    Args:
        parts: Runs and the labelled scenes that they are judged on. With several scenes, intervals
            are over scenes, as the pairs of one scene are not independent.

    Raises:
        DataError: If a scene has no labelled frame.
    """
    pairs: list[Pair] = []
    kind = ""
    for opened, scene in parts:
        questions = ask(opened, scene)
        kind = questions.kind
        pairs += localisation_pairs(opened, scene, questions)
    if len(parts) > 1:
        pairs = [replace(pair, frame=f"{pair.scene}/{pair.frame}") for pair in pairs]
    return {"localisation": summary_table(pairs, kind), "localisation_pairs": pair_table(pairs)}


def ask(opened: OpenedRun, scene: Scene) -> Questions:
    """Texts where the teacher understands them, else clicks on the same thing in other frames.

    A click's question is the mean of what the teacher sees at the middle of every box of that
    text in all frames but the one that is judged.
    """
    frames = {name: boxes for name, boxes in scene.boxes.items() if name in scene.images.names}
    if not frames:
        raise DataError(
            scene.name,
            wanted="labelled frames among the frames of the run",
            got=f"boxes for {', '.join(sorted(scene.boxes)) or 'no frame'}",
            fix="lift without --max-frames, or give a scene with boxes by --data",
        )
    texts = sorted({text for boxes in frames.values() for text in boxes})
    try:
        opened.teacher.encode_text(texts[:1])
    except UsageError:
        return _clicks(opened, scene, frames)
    column = {(f, t): texts.index(t) for f, boxes in frames.items() for t in boxes}
    return Questions(
        column=column,
        kind="text",
        texts=tuple(texts),
        score=lambda rows: opened.teacher.relevancy(rows, texts, []),
    )


def _clicks(opened: OpenedRun, scene: Scene, frames: Mapping[str, FrameBoxes]) -> Questions:
    seen: dict[tuple[str, str], list[torch.Tensor]] = {}
    for frame, boxes in frames.items():
        view = opened.teacher_view(scene.images[scene.images.names.index(frame)])
        for text, found in boxes.items():
            middles = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in found]
            seen[frame, text] = [feature_at(view, u, v) for u, v in middles]
    column: dict[tuple[str, str], int] = {}
    vectors: list[torch.Tensor] = []
    for frame, text in seen:
        others = [v for (f, t), found in seen.items() if t == text and f != frame for v in found]
        if others:
            column[frame, text] = len(vectors)
            vectors.append(torch.nn.functional.normalize(torch.stack(others), dim=1).mean(0))
    if not vectors:
        raise DataError(
            scene.name,
            wanted="a text with boxes in two frames, one to click in and one to look in",
            got="every text in one frame only",
            fix="label the same thing in a second frame",
        )
    asked = torch.stack(vectors)
    return Questions(column=column, kind="click", score=lambda rows: vector_scores(rows, asked))


def localisation_pairs(opened: OpenedRun, scene: Scene, questions: Questions) -> list[Pair]:
    """Judge all frame-question pairs: the teacher alone, each stored source, and the ensemble.

    Splats have every source twice: scores of the splats drawn (asked in 3D), and rows drawn and
    then scored in the picture (asked in 2D).
    """
    asked = _asked(opened, questions)
    stores = {source: opened.features(source) for source in asked}
    arms = {source: row_scores(stores[source], score) for source, score in asked.items()}
    if {"lifted", "student"} <= arms.keys():
        arms[ENSEMBLE] = ensemble([arms["lifted"], arms["student"]])
    # Sources with splats of their own are drawn with those, all others together.
    own = {s: opened.renderer(source=s) for s in asked if opened.drawn(s) is not None}
    together = {arm: columns for arm, columns in arms.items() if arm not in own}
    renderer = opened.renderer()
    pairs: list[Pair] = []
    for frame in sorted({frame for frame, _ in questions.column}):
        position = scene.images.names.index(frame)
        image = scene.images[position]
        view = opened.teacher_view(image)
        shown = {SINGLE: teacher_image(view, questions.score(view.rows))}
        if together:
            columns = np.concatenate(list(together.values()), axis=1)
            picture = renderer.render(columns, image.camera, scene.depth(position))
            shown |= dict(zip(together, np.split(picture, len(together), axis=2), strict=True))
        for source, score in asked.items():
            drawer = own.get(source, renderer)
            if source in own:
                shown[source] = drawer.render(arms[source], image.camera, None)
            if isinstance(drawer, SplatRenderer):
                drawn = drawer.render_rows(stores[source], score, image.camera)
                shown[source + RENDERED] = drawn
        boxes = scene.boxes[frame]
        for text in [text for f, text in questions.column if f == frame]:
            column = questions.column[frame, text]
            hits = {
                arm: localise(peak_pixel(picture[..., column], image.camera.hw), text, boxes)
                for arm, picture in shown.items()
            }
            pairs.append(Pair(frame=frame, text=text, hits=hits, scene=scene.name))
    return pairs


def _asked(opened: OpenedRun, questions: Questions) -> dict[str, Score]:
    """How rows of every source of points that has a language are scored."""
    asked: dict[str, Score] = {}
    for source in opened.run.sources():
        info = opened.run.info(source)
        if info.kind != "points" or info.classes:
            continue
        score = questions.score
        if questions.texts and opened.teacher_of(source) is not opened.teacher:
            teacher = opened.teacher_of(source)
            score = partial(teacher.relevancy, text=list(questions.texts), negatives=[])
        elif info.channels != opened.teacher.channels:
            continue  # clicks are rows of another teacher
        asked[source] = score
    return asked


def summary_table(pairs: Sequence[Pair], kind: str) -> Table:
    """Accuracy per arm, plain and strict, and the paired difference to the single view."""
    reference = SINGLE if SINGLE in pairs[0].hits else next(iter(pairs[0].hits))
    rows: list[tuple[str | float, ...]] = []
    for arm in pairs[0].hits:
        plain, strict = (_column(pairs, arm, kind) for kind in ("plain", "strict"))
        mean, low, high = _interval(pairs, plain)
        strict_mean, strict_low, strict_high = _interval(pairs, strict)
        gain = _interval(pairs, strict - _column(pairs, reference, "strict"))
        rows.append(
            (
                arm,
                f"{int(plain.sum())}/{len(pairs)}",
                mean,
                f"{low:.2f}..{high:.2f}",
                f"{int(strict.sum())}/{len(pairs)}",
                strict_mean,
                f"{strict_low:.2f}..{strict_high:.2f}",
                f"{gain[0]:+.2f} ({gain[1]:+.2f}..{gain[2]:+.2f})",
            )
        )
    columns = (
        "arm", "hits", "accuracy", "95 %", "strict hits", "strict", "95 % strict",
        f"strict - {reference}",
    )  # fmt: skip
    title = f"Localisation by {kind} over {len(pairs)} frame-query pairs"
    return Table(title, columns, tuple(rows))


def _interval(pairs: Sequence[Pair], values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean over pairs and its interval: over scenes where there are several, else over pairs."""
    scenes = sorted({pair.scene for pair in pairs})
    if len(scenes) == 1:
        return bootstrap(values)
    owner = np.array([scenes.index(pair.scene) for pair in pairs])
    size = len(scenes)
    total = np.stack([np.bincount(owner, values, size), np.bincount(owner, minlength=size)], 1)
    means = resampled(total, lambda part: part[:, :1] / part[:, 1:], scene_draws(size))
    low, high = interval(means)
    return float(values.mean()), float(low[0]), float(high[0])


def pair_table(pairs: Sequence[Pair]) -> Table:
    """Every pair: `hit`, `loose` (inside the box, but on a smaller object) or `miss`."""
    arms = tuple(pairs[0].hits)
    rows = tuple((p.frame, p.text, *(_word(p.hits[arm]) for arm in arms)) for p in pairs)
    return Table("Every pair", ("frame", "text", *arms), rows)


def _column(pairs: Sequence[Pair], arm: str, kind: str) -> npt.NDArray[np.float64]:
    return np.array([float(getattr(pair.hits[arm], kind)) for pair in pairs])


def _word(hit: Hit) -> str:
    if hit.strict:
        return "hit"
    return "loose" if hit.plain else "miss"
