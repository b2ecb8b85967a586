"""The one figure of the demo: what goes in, what each stage says, what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xmodal.atomic import atomic_path
from xmodal.render import FloatImage, PointRenderer, heat, overlay
from xmodal.runs.query import teacher_image

if TYPE_CHECKING:
    from xmodal.runs.opened import OpenedRun

_CELL_INCHES = (3.3, 2.48)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question: the frame, the pictures of every arm, and the true mask if it is known."""

    text: str
    frame: str
    rgb: npt.NDArray[np.uint8]
    shown: dict[str, FloatImage]
    truth: npt.NDArray[np.bool_] | None


def demo_row(
    opened: OpenedRun, text: str, frame: int, truth_ids: npt.NDArray[np.bool_] | None
) -> Row:
    """Relevancy of one text in one frame, arm by arm.

    Args:
        opened: The run.
        text: The question.
        frame: Position of the frame in the run's scene.
        truth_ids: For every point whether it belongs to the thing; None when unknown.
    """
    image = opened.scene.images[frame]
    depth = opened.scene.depth(frame)
    renderer = PointRenderer.of(opened.xyz)
    view = opened.teacher_view(image)
    scores = opened.teacher.relevancy(view.rows, [text], [])
    shown = {"teacher, this view alone": teacher_image(view, scores)[..., 0]}
    index = renderer.pixel_points(image.camera, depth)
    for source, label in (("lifted", "lifted from all views"), ("student", "student, points only")):
        if source in opened.run.sources():
            picture = opened.relevancy(source, [text])[:, 0][np.maximum(index, 0)]
            picture[index < 0] = np.nan
            shown[label] = picture
    truth = None if truth_ids is None else truth_ids[np.maximum(index, 0)] & (index >= 0)
    rgb = (image.rgb.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return Row(text=text, frame=image.name, rgb=rgb, shown=shown, truth=truth)


def write_figure(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw the rows as a grid: input view, arms, ground truth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heads = ["input view", *rows[0].shown]
    with_truth = any(row.truth is not None for row in rows)
    heads += ["ground truth"] if with_truth else []
    width, height = _CELL_INCHES
    figure = Figure(figsize=(width * len(heads) + 0.4, height * len(rows) + 1.1), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(heads), squeeze=False)
    for number, (line, row) in enumerate(zip(grid, rows, strict=True)):
        pictures = [row.rgb, *(overlay(row.rgb, value) for value in row.shown.values())]
        if with_truth:
            pictures.append(_truth_picture(row))
        for axis, picture, head in zip(line, pictures, heads, strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            if number == 0:
                axis.set_title(head, fontsize=12)
        line[0].set_ylabel(f'"{row.text}"', fontsize=13)
    _scale_bar(figure)
    figure.suptitle(title, fontsize=13, y=0.995)
    total = height * len(rows) + 1.1
    figure.subplots_adjust(
        left=0.025, right=0.995, top=1 - 0.62 / total, bottom=0.42 / total, wspace=0.02, hspace=0.03
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _truth_picture(row: Row) -> npt.NDArray[np.uint8]:
    if row.truth is None:
        return np.full_like(row.rgb, 60)
    return overlay(row.rgb, np.where(row.truth, 0.75, 0.0).astype(np.float32))


def _scale_bar(figure: object) -> None:
    """A strip of the colour map with its two ends in words."""
    from matplotlib.figure import Figure

    if not isinstance(figure, Figure):
        raise TypeError(f"a matplotlib figure is needed, got {type(figure).__name__}")
    height = float(figure.get_figheight())
    axis = figure.add_axes((0.36, 0.12 / height, 0.28, 0.12 / height))
    axis.imshow(heat(np.linspace(0, 1, 256, dtype=np.float32)[None]), aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.text(-6, 0, "not relevant", ha="right", va="center", fontsize=10)
    axis.text(262, 0, "most relevant of the view", ha="left", va="center", fontsize=10)
