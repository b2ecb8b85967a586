"""Queries of a splat scene: a text, a picture, a click or a box in; selections of splats out.

Relevancy of a teacher is asked of rows as they are stored, whatever their codec. What is relevant
is cut into groups of splats that touch. A selection has splat numbers, a box, and a mask in any
view through the compositing weights of that view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.groups import SplatBox, group_splats, splat_box
from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from xmodal.errors import UsageError
from xmodal.query import Scores, text_relevancy, vector_relevancy
from xmodal.render import point_spacing
from xmodal.splats.prompts import (
    BoxPrompt,
    ImageBoxPrompt,
    ImagePrompt,
    PixelPrompt,
    SplatPrompt,
    TextPrompt,
    check_camera,
    check_rows,
    clicked_pixel,
    clicked_point,
    share_in_box,
    share_in_image_box,
)
from xmodal.store import Features
from xmodal.teachers import Teacher

__all__ = [
    "SelectOptions",
    "SplatSelection",
    "query_splats",
    "score_image",
    "select_splats",
    "selection_mask",
]

# As in clouds: splats without any size are linked over this many typical spacings of the scene.
_LINK_SPACINGS = 2.5
# Groups that stop less light than this many opaque splats are strays beside a heavier one.
_LEAST_MASS = 2.5
# Relevancy is float32 in [0, 1]: equal rows of a scene that is mostly one thing must stay equal.
_ROUNDING = 1e-6
# Of a box prompt: most of what a splat shows must lie inside.
_MOST = 0.5


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How relevancy is cut into selections.

    Attributes:
        threshold: Splats are selected from this share of the highest relevancy. Of a click or a
            picture the share is counted from the median of the scene upwards: features of most
            teachers resemble each other, and only what stands out is meant.
        top: Largest number of selections, best first.
        solid_opacity: Opacity from which splats tie others together and set the highest relevancy.
        up: Vertical direction of the scene, about which boxes are turned; None for boxes along the
            axes of the world.
    """

    threshold: float = 0.5
    top: int = 10
    solid_opacity: float = 0.1
    up: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: If one is wrong.
        """
        wrong = None
        if not 0 < self.threshold <= 1:
            wrong = "threshold", "above 0 and at most 1", self.threshold
        elif self.top < 1:
            wrong = "top", "1 or more", self.top
        elif not 0 <= self.solid_opacity <= 1:
            wrong = "solid_opacity", "0 to 1", self.solid_opacity
        elif self.up is not None and not 0 < float(np.linalg.norm(self.up)) < np.inf:
            wrong = "up", "a direction of three finite numbers, not all 0", self.up
        if wrong:
            name, wanted, got = wrong
            raise UsageError(
                f"selection of splats, {name}",
                wanted=wanted,
                got=str(got),
                fix=f"the default is {getattr(SelectOptions, name)}",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatSelection:
    """A group of splats that answers a prompt.

    Attributes:
        ids: Splat numbers, rising.
        scores: Of each of them: its relevancy, or its share inside a box prompt.
        score: Mean relevancy of the best tenth, in [0, 1]; for a box prompt the share of what the
            box shows (or holds) that belongs to the group.
        confidence: The score, less what views disagreed about these splats.
        box: Around the splats, one standard deviation of each included.
    """

    ids: Int64[Tensor, " K"]
    scores: Float[Tensor, " K"]
    score: float
    confidence: float
    box: SplatBox


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A prompt as numbers.

    Attributes:
        scores: Per splat, NaN where nothing was observed.
        level: Splats are selected from this score on.
        seed: Only the group of this splat is meant.
        mass: How much of a box each splat fills, for box prompts.
    """

    scores: Scores
    level: float
    seed: int | None = None
    mass: Scores | None = None


def query_splats(
    splats: Splats,
    features: Features,
    prompt: SplatPrompt,
    *,
    teacher: Teacher | None = None,
    options: SelectOptions | None = None,
) -> list[SplatSelection]:
    """Selections that answer a prompt, best first; empty where nothing observed is relevant.

    Args:
        splats: The scene.
        features: What was lifted to it, one row per splat, in any codec. Splats that nothing
            observed are never selected.
        prompt: What is asked. A click or point answers with the one group that it hit.
        teacher: Who understands texts and pictures; other prompts need none.
        options: How relevancy is cut.

    Raises:
        UsageError: If the store is of another scene, the prompt needs a teacher, cannot be
            understood, or hits nothing.
    """
    options = options or SelectOptions()
    check_rows(splats, features)
    asked = _ask(splats, features, prompt, teacher, options)
    return _groups(splats, asked, np.asarray(features.disagreement), options)


def select_splats(
    splats: Splats, scores: Float[Tensor, " M"], *, options: SelectOptions | None = None
) -> list[SplatSelection]:
    """Selections from scores of whatever origin, best first.

    Args:
        splats: The scene.
        scores: Relevancy in [0, 1], NaN where not observed.
        options: How they are cut.

    Raises:
        UsageError: If there is not one score per splat.
    """
    options = options or SelectOptions()
    if len(scores) != len(splats):
        raise UsageError(
            "scores of splats",
            wanted=f"one score for each of {len(splats)} splats",
            got=f"{len(scores)}",
            fix="score the splats of this scene",
        )
    found = scores.detach().cpu().float().numpy()
    asked = _Asked(scores=found, level=_level(splats, found, options, from_median=False))
    return _groups(splats, asked, np.zeros(len(splats), np.float32), options)


def selection_mask(
    selection: SplatSelection, splats: Splats, camera: Camera, *, share: float = 0.5
) -> Bool[Tensor, "H W"]:
    """Pixels of a view that show the selection: its splats make up `share` of the light.

    Args:
        selection: Of these splats.
        splats: The scene, which hides the selection where it lies in front.
        camera: Pinhole camera without lens coefficients.
        share: Of all light of the pixel, background included.

    Raises:
        UsageError: If the camera has lens coefficients, or `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(
            "mask of a selection", wanted="a share above 0 and up to 1", got=str(share),
            fix="the default is 0.5",
        )  # fmt: skip
    check_camera(camera)
    inside = splats.means.new_zeros((len(splats), 1))
    inside[selection.ids.to(inside.device)] = 1
    with torch.no_grad():
        shown = view_operator(splats, camera).apply(inside)
    return (shown >= share).reshape(camera.hw)


def score_image(
    splats: Splats, scores: Float[Tensor, " M"], camera: Camera
) -> Float[Tensor, "H W"]:
    """Scores of splats as a view shows them: their mean by compositing weights.

    Args:
        splats: The scene.
        scores: Relevancy per splat, NaN where not observed.
        camera: Pinhole camera without lens coefficients.

    Returns:
        The image; NaN where less than half of the light comes from observed splats.

    Raises:
        UsageError: If the camera has lens coefficients.
    """
    check_camera(camera)
    seen = scores.isfinite()
    columns = torch.stack((scores.nan_to_num(0.0) * seen, seen.to(scores)), 1).to(splats.means)
    with torch.no_grad():
        total, light = view_operator(splats, camera).apply(columns).unbind(1)
    image = torch.where(light >= 0.5, total / light.clamp_min(0.5), torch.nan)
    return image.reshape(camera.hw)


def _ask(
    splats: Splats,
    features: Features,
    prompt: SplatPrompt,
    teacher: Teacher | None,
    options: SelectOptions,
) -> _Asked:
    if isinstance(prompt, BoxPrompt | ImageBoxPrompt):
        return _boxed(splats, features, prompt)
    seed = None
    if isinstance(prompt, TextPrompt):
        known = _needed(teacher, "a text")
        scores = text_relevancy(features, known, [prompt.text], prompt.negatives)[:, 0]
    elif isinstance(prompt, ImagePrompt):
        scores = _alike(features, _needed(teacher, "a picture").encode_image(prompt.image))
    elif isinstance(prompt, PixelPrompt):
        seed, vector = clicked_pixel(splats, features, prompt)
        scores = _alike(features, vector)
    else:
        seed, vector = clicked_point(splats, features, prompt)
        scores = _alike(features, vector)
    from_median = not isinstance(prompt, TextPrompt)
    level = _level(splats, scores, options, from_median=from_median)
    return _Asked(scores=scores, level=level, seed=seed)


def _boxed(splats: Splats, features: Features, prompt: BoxPrompt | ImageBoxPrompt) -> _Asked:
    if isinstance(prompt, ImageBoxPrompt):
        share, mass = share_in_image_box(splats, prompt)
    else:
        share = share_in_box(splats, prompt)
        mass = share * splats.opacities.detach().cpu()
    scores = share.float().numpy().copy()
    scores[~np.asarray(features.valid)] = np.nan
    return _Asked(scores=scores, level=_MOST, mass=mass.float().numpy())


def _needed(teacher: Teacher | None, what: str) -> Teacher:
    if teacher is None:
        raise UsageError(
            "query of splats",
            wanted=f"the teacher of the features, to understand {what}",
            got="no teacher",
            fix="pass teacher=, or ask by a click or a box",
        )
    return teacher


def _alike(features: Features, vector: Tensor) -> Scores:
    if len(vector) != features.info.channels:
        raise UsageError(
            "query of splats",
            wanted=f"a feature of {features.info.channels} channels, as the store holds",
            got=f"{len(vector)} channels",
            fix="ask the teacher that the features were lifted from",
        )
    return vector_relevancy(features, vector)


def _level(splats: Splats, scores: Scores, options: SelectOptions, *, from_median: bool) -> float:
    """The score from which splats are selected; infinite where nothing is relevant."""
    solid = splats.opacities.detach().cpu().numpy() >= options.solid_opacity
    known = scores[solid & np.isfinite(scores)]
    if not len(known) or known.max() <= 0:
        return float("inf")
    least = float(np.median(known)) if from_median else 0.0
    return least + options.threshold * (float(known.max()) - least) - _ROUNDING


def _groups(
    splats: Splats, asked: _Asked, disagreement: Scores, options: SelectOptions
) -> list[SplatSelection]:
    known = np.nan_to_num(asked.scores, nan=-1.0)
    relevant = known >= asked.level
    if asked.seed is not None:
        # What was clicked on is meant, even where others are more like the mixture of the pixel.
        relevant[asked.seed] = True
    chosen = torch.from_numpy(np.flatnonzero(relevant))
    spacing = point_spacing(splats.means.detach().cpu().float().numpy())
    labels = group_splats(
        splats, chosen, link_m=_LINK_SPACINGS * spacing, solid_opacity=options.solid_opacity
    )
    if asked.seed is not None:
        hit = chosen == asked.seed
        # A floater that was hit stands for itself.
        meant = (labels == labels[hit]) & (labels >= 0) | hit
        labels = torch.where(meant, 0, -1)
    found = [
        _selection(splats, chosen[labels == label], asked, disagreement, options)
        for label in _heavy(splats, chosen, labels)
    ]
    return sorted(found, key=lambda one: -one.score)[: options.top]


def _heavy(splats: Splats, chosen: Tensor, labels: Tensor) -> Sequence[int]:
    """Groups of some mass; the heaviest always counts."""
    inside = labels >= 0
    weight = splats.opacities.detach().cpu().double()[chosen[inside]]
    mass = torch.bincount(labels[inside], weights=weight)
    if not len(mass):
        return []
    enough = mass >= min(_LEAST_MASS, float(mass.max()))
    return [int(label) for label in (enough & (mass > 0)).nonzero().squeeze(1)]


def _selection(
    splats: Splats, ids: Tensor, asked: _Asked, disagreement: Scores, options: SelectOptions
) -> SplatSelection:
    members = ids.numpy()
    scores = asked.scores[members]
    if asked.mass is None:
        score = float(np.sort(scores)[-max(1, len(scores) // 10) :].mean())
    else:
        score = float(asked.mass[members].sum() / max(float(asked.mass.sum()), 1e-12))
    weight = splats.opacities.detach().cpu().numpy()[members]
    doubt = float((weight * disagreement[members]).sum() / weight.sum())
    up = None if options.up is None else torch.tensor(options.up)
    score = min(max(score, 0.0), 1.0)
    return SplatSelection(
        ids=ids,
        scores=torch.from_numpy(scores),
        score=score,
        confidence=score * (1 - min(max(doubt, 0.0), 1.0)),
        box=splat_box(splats.select(ids.to(splats.means.device)), up=up),
    )
