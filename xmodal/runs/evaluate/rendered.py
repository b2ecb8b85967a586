"""The 2D protocol: answers of points rendered into labelled frames, judged pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lifting.cameras import Camera
from xmodal.datasets import Scene
from xmodal.errors import DataError
from xmodal.evaluate.segmentation import Ids
from xmodal.query import Scores
from xmodal.render import PointRenderer
from xmodal.runs.evaluate.arms import asked_texts, view_scores
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.tally import Answer, Tally, answer, no_tally, tally
from xmodal.runs.evaluate.truth import named_pixels
from xmodal.runs.localise import SINGLE

# One pixel of each block of 2 x 2 is judged: neighbours nearly always agree, at a quarter the cost.
_STRIDE = 2


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Counts over the labelled frames of one scene.

    Attributes:
        tallies: Counts by arm.
        frames: Labelled frames that were judged.
        skipped: Frames without a label map.
        covered: Share of the labelled pixels that show a point.
    """

    tallies: Mapping[str, Tally]
    frames: int
    skipped: int
    covered: float


def rendered_tallies(
    subject: Subject, answers: Mapping[str, Answer], names: Sequence[str], *, single: bool
) -> Rendered:
    """Judge arms in every labelled frame; a pixel that shows no point counts as "other".

    Args:
        subject: The scene.
        answers: Answers for every point, by arm.
        names: The named classes.
        single: Whether the teacher's own output of each frame is judged too.

    Raises:
        DataError: If the scene has no label maps, or no names for their ids.
    """
    scene = check_label_maps(subject)
    assert scene.label_maps is not None
    renderer = PointRenderer.of(subject.cloud.xyz.numpy(), stride=_STRIDE)
    arms = [SINGLE, *answers] if single else list(answers)
    totals = {arm: no_tally(len(names)) for arm in arms}
    texts = asked_texts(subject, names) if single else []
    shown, counted = 0, 0
    for place, name in enumerate(scene.label_maps.names):
        label = scene.label_maps[place]
        index = scene.images.names.index(name)
        points = renderer.pixel_points(label.camera, scene.depth(index)).reshape(-1)
        truth = named_pixels(_sampled(label.ids), scene.label_names, names).reshape(-1)
        for arm, given in answers.items():
            totals[arm] = totals[arm] + tally(given.at(points), truth, len(names), ranked=False)
        if single:
            given = answer(_single(subject, scene, index, label.camera, texts), len(names))
            totals[SINGLE] = totals[SINGLE] + tally(given, truth, len(names), ranked=False)
        shown += int(((points >= 0) & (truth >= -1)).sum())
        counted += int((truth >= -1).sum())
    frames = len(scene.label_maps)
    return Rendered(
        tallies=totals,
        frames=frames,
        skipped=len(scene.images) - frames,
        covered=shown / counted if counted else float("nan"),
    )


def check_label_maps(subject: Subject) -> Scene:
    """The scene, if it has label maps whose ids have names.

    Raises:
        DataError: If not.
    """
    scene = subject.scene
    if scene is None or scene.label_maps is None:
        raise DataError(
            subject.name,
            wanted="label maps, label/NAME.png for frames of the scene, for --protocol 2d",
            got="none",
            fix="measure on points with --protocol 3d, or add label maps",
        )
    if not scene.label_names:
        raise DataError(
            f"{subject.name}: scene.json",
            wanted='label_ids, the names of the ids in label/: {"1": "mug"}',
            got="none",
            fix="add label_ids to scene.json",
        )
    return scene


def _sampled(ids: torch.Tensor) -> Ids:
    """The pixel right of and below the middle of every block, as the renderer has blocks."""
    height, width = ids.shape[0] // _STRIDE, ids.shape[1] // _STRIDE
    half = _STRIDE // 2
    rows, cols = np.arange(height) * _STRIDE + half, np.arange(width) * _STRIDE + half
    return ids.numpy().astype(np.int64)[np.ix_(rows, cols)]


def _single(subject: Subject, scene: Scene, index: int, camera: Camera, texts: list[str]) -> Scores:
    """What the teacher says of the judged pixels from this frame alone."""
    opened = subject.opened
    assert opened is not None
    image = scene.images[index]
    height, width = camera.hw[0] // _STRIDE, camera.hw[1] // _STRIDE
    rows, cols = np.mgrid[:height, :width]
    half = _STRIDE // 2
    uv = np.stack([cols, rows], -1).reshape(-1, 2) * _STRIDE + half + 0.5
    # Label maps may be those of the depth camera, which shares the colour camera's place.
    K, K_image = camera.K.numpy(), image.camera.K.numpy()
    ray = (uv - K[:2, 2]) / np.diag(K)[:2]
    at = (ray * np.diag(K_image)[:2] + K_image[:2, 2]).astype(np.float32)
    size = np.array([image.camera.hw[1], image.camera.hw[0]])
    inside = ((at >= 0) & (at < size)).all(1)
    scores = np.full((len(at), len(texts)), np.nan, dtype=np.float32)
    scores[inside] = view_scores(opened, opened.teacher_view(image), texts, at[inside])
    return scores
