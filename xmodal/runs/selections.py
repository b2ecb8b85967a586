"""Selections of splats that answer a prompt of the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera, pixel_rays, project
from lifting.gaussians.splats import Splats
from lifting.gaussians.teacher_views import drawing_camera
from xmodal.errors import UsageError
from xmodal.query import FoundObject, Scores, ensemble
from xmodal.runs.opened import OpenedRun
from xmodal.runs.prompts import Prompt, frame_index, parse_box, parse_click, picture
from xmodal.splats.prompts import (
    ImageBoxPrompt,
    ImagePrompt,
    PixelPrompt,
    SplatPrompt,
    TextPrompt,
    share_in_image_box,
)
from xmodal.splats.query import SelectOptions, SplatSelection, query_splats, select_splats
from xmodal.store import Features

# Drawing a photo of many megapixels takes long and tells nothing more of where a box is.
_DRAWN_SIDE_PX = 800


def needed_splats(opened: OpenedRun, what: str) -> Splats:
    """The splats of a run.

    Args:
        opened: The run.
        what: What asks for them, for the message.

    Raises:
        UsageError: If it is a run over points.
    """
    if opened.splats is None:
        raise UsageError(
            what,
            wanted="a run over splats",
            got=f"{opened.run.path}, a run over points",
            fix="lift the scene to gaussians: xmodal lift SCENE --to gaussians --out RUN2",
        )
    return opened.splats


def select(
    opened: OpenedRun,
    prompt: Prompt,
    names: Sequence[str],
    *,
    top: int,
    threshold: float | None = None,
) -> list[SplatSelection]:
    """Selections of a run over splats that answer a prompt, best first.

    A click answers with what was clicked on, and a box with what it shows most of. Of several
    sources a text is answered by the surer one of each splat, and other prompts by the source whose
    best selection is the surer one.

    Args:
        opened: The run.
        prompt: What is asked.
        names: The sources that are asked.
        top: Largest number of selections.
        threshold: Share of the highest relevancy from which splats are selected; the run's if None.

    Raises:
        UsageError: If it is a run over points, a number is out of range, or the prompt does not fit
            the run.
    """
    splats = needed_splats(opened, f"selection of {prompt.label!r}")
    share = opened.spec.query.threshold if threshold is None else threshold
    options = SelectOptions(threshold=share, top=top)
    if prompt.text is not None and len(names) > 1:
        against = list(prompt.negatives)
        parts = [opened.relevancy(name, [prompt.text], against)[:, 0] for name in names]
        return select_splats(splats, torch.from_numpy(ensemble(parts)), options=options)
    asked = _splat_prompt(opened, prompt)
    answers = [
        query_splats(
            splats,
            opened.features(name),
            asked,
            # Clicks and boxes need no teacher, whose weights may not be at hand.
            teacher=opened.teacher_of(name) if prompt.text or prompt.image else None,
            options=options,
        )
        for name in names
    ]
    return max(answers, key=lambda found: found[0].score if found else -1.0)


def box_scores(opened: OpenedRun, box: str, names: Sequence[str]) -> Scores:
    """Of each splat the share of its light inside a box of a frame; NaN where not observed.

    Raises:
        UsageError: If it is a run over points, or the box shows nothing.
    """
    splats = needed_splats(opened, f"--box {box}")
    share = share_in_image_box(splats, _image_box(opened, box))[0].float().numpy().copy()
    seen = [np.asarray(opened.features(name).valid) for name in names]
    share[~np.logical_or.reduce(seen)] = np.nan
    return share


def as_objects(found: Sequence[SplatSelection], features: Features) -> list[FoundObject]:
    """Selections as the objects of an answer, one point for each splat."""
    views = np.asarray(features.num_views)
    return [
        FoundObject(
            score=round(one.score, 6),
            centre_m=_triple(one.box.centre_m),
            size_m=_triple(one.box.size_m),
            num_points=len(one.ids),
            coverage=round(float(views[one.ids.numpy()].mean()), 3),
        )
        for one in found
    ]


def describe_selections(found: Sequence[SplatSelection], label: str, source: str) -> str:
    """The answer as a few lines for the terminal."""
    if not found:
        return f"{label!r}: nothing observed is relevant (source: {source})"
    lines = [f"{label!r}: {len(found)} place(s), source: {source}"]
    for one in found:
        x, y, z = _triple(one.box.centre_m)
        a, b, c = (100 * edge for edge in _triple(one.box.size_m))
        lines.append(
            f"  {one.score:.3f}  at ({x:+.2f}, {y:+.2f}, {z:+.2f}) m, {a:.0f} x {b:.0f} x {c:.0f} "
            f"cm, {len(one.ids)} splats, confidence {one.confidence:.2f}"
        )
    return "\n".join(lines)


def drawn_pixels(uv: Float[Tensor, "n 2"], camera: Camera, drawn: Camera) -> Float[Tensor, "n 2"]:
    """Where pixels of a photo lie in a drawing of it through an ideal lens; NaN if nowhere.

    Args:
        uv: Pixels of the photo.
        camera: Took the photo.
        drawn: Its `drawing_camera`, of any size.
    """
    if camera.coefficients is None:
        return uv * uv.new_tensor((drawn.hw[1] / camera.hw[1], drawn.hw[0] / camera.hw[0]))
    directions, exists = pixel_rays(uv, camera)
    seen = project(drawn.centre.to(uv) + directions, drawn)
    return seen.uv.where(exists[:, None], torch.nan)


def _splat_prompt(opened: OpenedRun, prompt: Prompt) -> SplatPrompt:
    if prompt.text is not None:
        return TextPrompt(text=prompt.text, negatives=prompt.negatives)
    if prompt.image is not None:
        return ImagePrompt(image=picture(prompt.image))
    if prompt.box is not None:
        return _image_box(opened, prompt.box)
    frame, u, v = parse_click(prompt.click or "")
    camera, drawn = _cameras(opened, frame)
    x, y = drawn_pixels(torch.tensor([[u, v]]), camera, drawn)[0].tolist()
    if not (0 <= u < camera.hw[1] and 0 <= v < camera.hw[0] and math.isfinite(x + y)):
        raise _outside(f"click at ({u:g}, {v:g}) in frame {frame}", camera)
    return PixelPrompt(camera=drawn, uv=(x, y))


def _image_box(opened: OpenedRun, text: str) -> ImageBoxPrompt:
    frame, (left, top, right, bottom) = parse_box(text)
    camera, drawn = _cameras(opened, frame)
    if not (left < camera.hw[1] and top < camera.hw[0] and right > 0 and bottom > 0):
        raise _outside(f"--box {text}", camera)
    # A lens bends the sides; between their ends and middles they bend by less than a pixel or two.
    across, down = (left, (left + right) / 2, right), (top, (top + bottom) / 2, bottom)
    uv = drawn_pixels(torch.tensor([[u, v] for u in across for v in down]), camera, drawn)
    # Corners of a strongly distorted picture may look nowhere; the others bound what is shown.
    uv = uv[uv.isfinite().all(1)]
    if not len(uv):
        raise _outside(f"--box {text}", camera)
    (u0, v0), (u1, v1) = uv.amin(0).tolist(), uv.amax(0).tolist()
    return ImageBoxPrompt(camera=drawn, box_px=(u0, v0, u1, v1))


def _cameras(opened: OpenedRun, frame: str) -> tuple[Camera, Camera]:
    """The camera of a frame, and the one that splats are drawn with."""
    camera = opened.scene.images[frame_index(opened, frame)].camera
    return camera, drawing_camera(camera, _DRAWN_SIDE_PX)


def _outside(where: str, camera: Camera) -> UsageError:
    return UsageError(
        where,
        wanted=f"a place in the picture of {camera.hw[1]} x {camera.hw[0]} pixels",
        got="one outside",
        fix="x runs from the left, y from the top, in pixels of the colour image",
    )


def _triple(values: Tensor) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 4) for v in values)
    return x, y, z
