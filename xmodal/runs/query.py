"""`xmodal query`: from a question to scores, objects, a cloud and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lifting.operator import LiftOperator
from lifting.sampling import membership_taps, patch_taps
from lifting.visibility import visible_points
from xmodal.errors import UsageError
from xmodal.ply import write_points
from xmodal.query import (
    FoundObject,
    Scores,
    describe,
    ensemble,
    find_objects,
    score_colours,
    vector_relevancy,
    write_objects,
    write_scores,
)
from xmodal.render import FloatImage, overlay, write_picture
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.prompts import Prompt, QueryOutputs, frame_index, parse_click, picture
from xmodal.runs.recorded.material import is_recorded
from xmodal.runs.selections import as_objects, box_scores, describe_selections, select
from xmodal.store import Run
from xmodal.values import FeatureMap, Masks


def query_run(path: Path, prompt: Prompt, source: str | None, outputs: QueryOutputs) -> str:
    """Answer a query on a RUN folder, write the files asked for, return a short report."""
    if is_recorded(Run(path)):
        from xmodal.runs.recorded.query import query_recordings

        return query_recordings(path, prompt, source, outputs)
    prompt.check()
    opened = open_run(path)
    names = opened.pick(source)
    label = "ensemble" if len(names) > 1 else names[0]
    # Selections of splats need no scores of all of them, which for a click cost a teacher's look.
    needed = opened.splats is None or outputs.scores or outputs.ply or outputs.png
    scores = prompt_scores(opened, prompt, names) if needed else None
    objects, told = _answer(opened, prompt, names, scores, outputs.top)
    lines = [told]
    if outputs.json:
        write_objects(outputs.json, prompt.label, label, objects)
    if scores is not None:
        lines += _write_scores(opened, scores, outputs, None if len(names) > 1 else names[0])
    files = (outputs.scores, outputs.json, outputs.ply, outputs.png)
    return "\n".join([*lines, *(f"wrote {file}" for file in files if file)])


def _answer(
    opened: OpenedRun, prompt: Prompt, names: Sequence[str], scores: Scores | None, top: int
) -> tuple[list[FoundObject], str]:
    """What was found, as objects and as text."""
    label = "ensemble" if len(names) > 1 else names[0]
    features = opened.features(names[0])
    if scores is None or opened.splats is not None:
        found = select(opened, prompt, names, top=top)
        return as_objects(found, features), describe_selections(found, prompt.label, label)
    objects = find_objects(
        opened.xyz,
        scores,
        np.asarray(features.num_views),
        threshold=opened.spec.query.threshold,
        top=top,
    )
    return objects, describe(objects, prompt.label, label)


def _write_scores(
    opened: OpenedRun, scores: Scores, outputs: QueryOutputs, source: str | None
) -> list[str]:
    """Write the files that show scores; what else there is to tell of them."""
    if outputs.scores:
        write_scores(outputs.scores, scores)
    if outputs.ply:
        write_heat(outputs.ply, opened, scores)
    if outputs.png:
        return [f"frame {_write_png(outputs, opened, scores, source)}"]
    return []


def write_heat(path: Path, opened: OpenedRun, scores: Scores) -> None:
    """Write the run's cloud in heat colours with its scores."""
    colours = torch.from_numpy(score_colours(scores)).float() / 255
    relevancy = torch.from_numpy(scores)
    write_points(path, replace(opened.cloud, rgb=colours), scalars={"relevancy": relevancy})


def prompt_scores(opened: OpenedRun, prompt: Prompt, names: Sequence[str]) -> Scores:
    """Relevancy per point of one prompt; of several sources, the surer one's.

    Raises:
        UsageError: If the prompt does not fit the run; boxes need splats.
    """
    if prompt.box is not None:
        return box_scores(opened, prompt.box, names)
    if prompt.text is not None:
        negatives = list(prompt.negatives)
        parts = [opened.relevancy(name, [prompt.text], negatives)[:, 0] for name in names]
    else:
        vector = _vector(opened, prompt)
        parts = [vector_relevancy(opened.features(name), vector) for name in names]
    return ensemble(parts)


def _vector(opened: OpenedRun, prompt: Prompt) -> torch.Tensor:
    if prompt.image is not None:
        return opened.teacher.encode_image(picture(prompt.image))
    frame, u, v = parse_click(prompt.click or "")
    index = frame_index(opened, frame)
    view = opened.teacher.encode(opened.scene.images[index])
    return feature_at(view, u, v)


def feature_at(view: FeatureMap | Masks, u: float, v: float) -> torch.Tensor:
    """The teacher's feature `[C]` at one pixel of a view.

    Raises:
        UsageError: If the pixel lies outside the image or the teacher sees nothing there.
    """
    taps = pixel_taps(view, torch.tensor([[u, v]]))
    height, width = view.camera.hw
    if not (0 <= u < width and 0 <= v < height) or taps.nnz == 0:
        raise UsageError(
            f"click at ({u:g}, {v:g}) in frame {view.name}",
            wanted=f"a pixel inside {width} x {height} where the teacher sees something",
            got="nothing there",
            fix="click on the middle of a larger object",
        )
    return taps.apply(view.rows)[0]


def pixel_taps(view: FeatureMap | Masks, uv: torch.Tensor) -> LiftOperator:
    """Mean operator from a view's rows to pixels `uv [n, 2]` of its image."""
    if isinstance(view, Masks):
        taps = membership_taps(uv, view.membership, image_hw=view.camera.hw, grid_hw=view.grid_hw)
    else:
        taps = patch_taps(uv, image_hw=view.camera.hw, grid_hw=view.grid_hw)
    return taps.scale_columns(view.weight * view.valid).mean()


def teacher_image(view: FeatureMap | Masks, scores: torch.Tensor, stride: int = 2) -> FloatImage:
    """Scores of a view's rows `[M, T]` as an image `[H / stride, W / stride, T]`, NaN if unseen."""
    h, w = view.camera.hw[0] // stride, view.camera.hw[1] // stride
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    scale = torch.tensor([view.camera.hw[1] / w, view.camera.hw[0] / h])
    uv = (torch.stack([cols, rows], -1).reshape(-1, 2) + 0.5) * scale
    taps = pixel_taps(view, uv)
    image = taps.apply(scores).numpy()
    image[taps.row_sum().numpy() == 0] = np.nan
    return image.reshape(h, w, -1)


def _write_png(outputs: QueryOutputs, opened: OpenedRun, scores: Scores, source: str | None) -> str:
    renderer = opened.renderer(stride=4, source=source)
    scene = opened.scene
    if outputs.frame is not None:
        index = frame_index(opened, outputs.frame)
    else:
        index = best_frame(opened, relevant_gain(scores))
    image, depth = scene.images[index], scene.depth(index)
    shown = renderer.render(scores, image.camera, depth)
    rgb = (image.rgb.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert outputs.png is not None, "asked for by the caller"
    write_picture(outputs.png, overlay(rgb, shown))
    return image.name


def best_frame(opened: OpenedRun, gain: npt.NDArray[np.float32]) -> int:
    """Position of the frame that shows most of the wanted points, well inside the picture.

    Args:
        opened: The run.
        gain: How much each point is wanted, `[N]`, 0 for points that are not.
    """
    chosen = np.flatnonzero(gain > 0)
    if not len(chosen):
        return 0
    xyz = torch.from_numpy(opened.xyz[chosen])
    totals: list[float] = []
    for index in range(len(opened.scene.images)):
        camera, depth = opened.scene.images[index].camera, opened.scene.depth(index)
        seen = visible_points(
            xyz,
            camera,
            depth_m=depth.depth_m if depth else None,
            depth_camera=depth.camera if depth else None,
        )
        size = torch.tensor([camera.hw[1], camera.hw[0]])
        inner = ((seen.uv > 0.05 * size) & (seen.uv < 0.95 * size)).all(1)
        # Near views show more pixels of the same points.
        shown = torch.from_numpy(gain[chosen])[seen.index] * inner / seen.depth_m**2
        totals.append(float(shown.sum()))
    return int(np.argmax(totals))


def relevant_gain(scores: Scores, share: float = 0.7) -> npt.NDArray[np.float32]:
    """Relevancy relative to the highest, 0 below `share` of it and where nothing was observed."""
    gain = np.nan_to_num(scores) / max(float(np.nanmax(scores, initial=0.0)), 1e-12)
    return np.where(gain > share, gain, 0).astype(np.float32)
