"""Sheets of a run: what a frame shows of its features, of the answers to a text, and of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lifting.cameras import Camera
from lifting.gaussians.photos import Photo
from lifting.gaussians.rendering import View, render
from lifting.gaussians.splats import Splats
from lifting.gaussians.teacher_views import view_taps
from lifting.views import ViewGeometry
from xmodal.edges.lift.fit_splats import FitSplats, photo_of
from xmodal.edges.lift.lazy_views import lift_view
from xmodal.errors import UsageError
from xmodal.feature_colours import FeatureColours, coloured_store, store_colours
from xmodal.panels import (
    ColourBar,
    Panel,
    RgbImage,
    check_ending,
    colour_picture,
    depth_picture,
    sheet,
    write_sheet,
)
from xmodal.render import FloatImage, PointRenderer, overlay
from xmodal.runs.frozen import splats_node
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.prompts import frame_index
from xmodal.runs.recorded.judged import open_recorded
from xmodal.runs.recorded.material import is_recorded
from xmodal.runs.recorded.sheet import maps_sheet
from xmodal.runs.selections import needed_splats
from xmodal.splats.drawing import SplatRenderer
from xmodal.store import Run

# Longest side of what is drawn: panels are not larger.
_SIDE_PX = 640
# A pixel shows a surface where splats stop so much of its light.
_LEAST_LIGHT = 0.5
# Behind splats that were taken out of their scene.
_PAPER = 0.93


@dataclass(frozen=True)
class Frames:
    """Frames of a run's scene as they are drawn: through an ideal lens, at most so large.

    Attributes:
        opened: The run.
        max_side_px: Longest side of a drawing.
    """

    opened: OpenedRun
    max_side_px: int = _SIDE_PX

    def photo(self, index: int) -> Photo:
        """A photo, straightened."""
        return photo_of(self.opened.scene.images[index], None, self.max_side_px)

    @cached_property
    def tested(self) -> list[int]:
        """Frames that a fit of splats left out; none of a run over points."""
        node = splats_node(self.opened.spec.graph)
        made = [e.op for e in self.opened.spec.graph.order() if e.target == node]
        fits = [op for op in made if isinstance(op, FitSplats)]
        return list(fits[0].tested(self.opened.scene.images)) if fits else []

    def chosen(self, names: Sequence[str]) -> list[int]:
        """Positions of named frames; without names one in the middle, held out if any is.

        Raises:
            UsageError: If the run does not have a frame.
        """
        if names:
            return [frame_index(self.opened, name) for name in names]
        known = self.tested or list(range(len(self.opened.scene.images)))
        return [known[len(known) // 2]]


def figure_run(
    path: Path,
    out: Path,
    frames: Sequence[str] = (),
    *,
    source: str | None = None,
    teacher: bool = False,
) -> str:
    """Draw frames of a RUN folder into a file; what was written, in words. See `features_sheet`.

    Of a run over recordings, `frames` are names of recordings, and their maps are drawn.

    Raises:
        UsageError: If the file's name says no known format, or the run lacks what is asked for.
        DataError: If the run or its scene cannot be read, or the file not be written.
    """
    check_ending(out)
    if is_recorded(Run(path)):
        if source is not None or teacher:
            raise UsageError(
                "figure of a run over recordings",
                wanted="no --source and no --teacher: all maps are drawn",
                got="--teacher" if teacher else f"--source {source}",
                fix="leave it out",
            )
        write_sheet(out, maps_sheet(open_recorded(path), frames))
        return f"wrote {out}"
    opened = open_run(path)
    write_sheet(out, features_sheet(opened, frames, source=source, teacher=teacher))
    return f"wrote {out}"


def features_sheet(
    opened: OpenedRun,
    frames: Sequence[str] = (),
    *,
    source: str | None = None,
    teacher: bool = False,
    width_px: int = 260,
) -> RgbImage:
    """A row for each frame: the photo, colour and depth of the splats, and their features.

    Features are shown by their first three principal components, found once for the whole run, so
    that equal features have equal colours in all frames. A run over points has no colour and depth
    of its own.

    Args:
        opened: The run.
        frames: Names of frames; one in the middle if none.
        source: Features to show, as in a query.
        teacher: Also what the teacher says of each frame by itself, in the same colours.
        width_px: Width of every picture.

    Raises:
        UsageError: If the run does not have the frame or the features.
    """
    drawn = Frames(opened)
    name = opened.pick(source)[0]
    features = opened.features(name)
    if not np.asarray(features.valid).any():
        raise UsageError(
            f"--source {name}", wanted="features that some view gave", got="none", fix="lift again"
        )
    colours = store_colours(features)
    shown = coloured_store(features, colours)
    rows: list[list[Panel]] = []
    heads: list[str] = []
    for index in drawn.chosen(frames):
        photo = drawn.photo(index)
        note = ", held out" if index in drawn.tested else ""
        cells = {"photo": Panel(picture=_photo(photo), caption=f"frame {photo.name}{note}")}
        cells |= _geometry(opened, photo.camera)
        if teacher:
            seen = _teacher_colours(opened, index, photo.camera, colours)
            cells["teacher, this view alone"] = Panel(picture=colour_picture(seen))
        cells[f"{name}, all views"] = Panel(picture=colour_picture(_drawn(drawn, shown, index)))
        heads = list(cells)
        rows.append(list(cells.values()))
    return sheet(rows, heads=heads, width_px=width_px)


def query_sheet(
    runs: Mapping[str, OpenedRun],
    asked: Sequence[tuple[str, str]],
    *,
    source: str | None = None,
    width_px: int = 260,
) -> RgbImage:
    """A row for each text: a photo, and relevancy over it as each run says.

    Args:
        runs: Runs over the same scene by what their column is called.
        asked: Texts and the frames that they are shown in.
        source: Features to ask, as in a query.
        width_px: Width of every picture.

    Raises:
        UsageError: If a run does not have the frame or the features.
    """
    first = next(iter(runs.values()))
    texts = list(dict.fromkeys(text for text, _ in asked))
    scores = {name: one.relevancy(one.pick(source)[0], texts) for name, one in runs.items()}
    rows: list[list[Panel]] = []
    for text, frame in asked:
        photo = Frames(first).photo(frame_index(first, frame))
        ground = _photo(photo)
        row = [Panel(picture=ground, caption=f"frame {frame}")]
        for name, one in runs.items():
            column = scores[name][:, texts.index(text)]
            heat = _drawn(Frames(one), column, frame_index(one, frame))
            row.append(Panel(picture=overlay(ground, heat)))
        rows.append(row)
    return sheet(
        rows,
        heads=["photo", *runs],
        labels=[f'"{text}"' for text, _ in asked],
        bar=ColourBar(low="not relevant", high="most relevant of the picture"),
        width_px=width_px,
    )


def edits_sheet(
    opened: OpenedRun, frame: str, edits: Sequence[tuple[str, str, Splats]], *, width_px: int = 260
) -> RgbImage:
    """A frame of a run's splats as they are, and after edits.

    Args:
        opened: The run.
        frame: Name of the frame.
        edits: What was asked for, what was done with it, and the splats after it.
        width_px: Width of every picture.

    Raises:
        UsageError: If the run is not over splats, or does not have the frame.
    """
    before = ("before", f"frame {frame}", needed_splats(opened, "pictures of edits"))
    camera = Frames(opened).photo(frame_index(opened, frame)).camera
    panels: list[Panel] = []
    opaque: torch.Tensor | None = None
    for _, done, splats in (before, *edits):
        with torch.no_grad():
            view = render(splats, camera)
        # Splats were fitted on black, and surfaces are not quite opaque: they would pale on paper.
        # So it shows through by so much as an edit took away.
        opaque = view.alpha.clamp_min(_LEAST_LIGHT) if opaque is None else opaque
        bare = (1 - view.alpha / opaque).clamp_min(0.0).numpy()[..., None]
        panels.append(Panel(picture=colour_picture(_colour(view) + _PAPER * bare), caption=done))
    return sheet([panels], heads=[asked for asked, _, _ in (before, *edits)], width_px=width_px)


def _photo(photo: Photo) -> RgbImage:
    """A photo as bytes; what a lens never showed is grey."""
    rgb = photo.rgb.permute(1, 2, 0).numpy().astype(np.float32)
    if photo.valid is not None:
        rgb = np.where(photo.valid.numpy()[..., None], rgb, np.float32(np.nan))
    return colour_picture(rgb)


def _geometry(opened: OpenedRun, camera: Camera) -> dict[str, Panel]:
    """Colour and depth of a run's splats; of points nothing."""
    if opened.splats is None:
        return {}
    with torch.no_grad():
        view = render(opened.splats, camera)
    depth = view.depth_m.where(view.alpha >= _LEAST_LIGHT, torch.nan).numpy()
    # Poses from photos alone have no scale.
    unit = "units" if opened.scene.depths is None else "m"
    picture, caption = depth_picture(depth.astype(np.float32), unit)
    panels = {"depth": Panel(picture=picture, caption=caption)}
    if view.colour is None:
        return panels
    number = f"{len(opened.splats):,} splats"
    return {"rendered": Panel(picture=colour_picture(_colour(view)), caption=number)} | panels


def _colour(view: View) -> FloatImage:
    if view.colour is None:
        raise ValueError("splats without colour cannot be drawn in colour")
    return view.colour.detach().permute(1, 2, 0).numpy().astype(np.float32)


def _drawn(frames: Frames, values: FloatImage, index: int) -> FloatImage:
    """Values of the run's points or splats as a drawing of a frame."""
    camera = frames.photo(index).camera
    if frames.opened.splats is not None:
        return SplatRenderer(frames.opened.splats, 1).render(values, camera)
    renderer = PointRenderer.of(frames.opened.xyz, stride=1)
    return renderer.render(values, camera, frames.opened.scene.depth(index))


def _teacher_colours(
    opened: OpenedRun, index: int, camera: Camera, colours: FeatureColours
) -> FloatImage:
    """What the teacher says of one frame, where the drawing shows it."""
    view = opened.teacher_view(opened.scene.images[index])
    geometry = ViewGeometry(camera=view.camera, name=view.name)
    taps = view_taps(lift_view(view, geometry), camera).mean()
    image = colours(taps.apply(view.rows))
    image[taps.row_sum() == 0] = torch.nan
    return image.reshape(*camera.hw, 3).numpy()
