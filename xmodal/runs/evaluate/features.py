"""Features of new views: how close what is drawn of a run's splats is to what a teacher says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifting.gaussians.closed_form import SplatView
from lifting.gaussians.sets import ShownSets, shown_sets
from lifting.gaussians.teacher_views import mask_level_taps, view_taps
from xmodal import losses
from xmodal.edges.lift.held_out import left_out
from xmodal.edges.lift.splat_sets import SplatSets
from xmodal.edges.lift.splat_views import SplatViews
from xmodal.edges.lift.splats import LiftSplats
from xmodal.errors import DataError
from xmodal.evaluate import Table, bootstrap
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.frozen import Report, Reporter, load_teachers
from xmodal.runs.opened import OpenedRun
from xmodal.runs.settings import teachers_of
from xmodal.splats.drawing import composited, observed
from xmodal.store import Features
from xmodal.teachers.cache import CachedViews
from xmodal.values import FeatureMap, Masks, Views

if TYPE_CHECKING:
    from lifting.gaussians.splats import Splats
    from xmodal.graph import Edge, Graph
    from xmodal.teachers import Teacher

Level = Literal["all", "smallest", "middle", "largest"]

# A patch of which splats cover less says nothing of them; the least that `splat_sets` takes, too.
_LEAST_ALPHA = SplatSets.least_alpha
# Of the light of a patch, the part that observed splats must send.
_LEAST_OBSERVED = 0.5
_PRECISION = 1e-30


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How sources of one teacher are compared with it.

    Attributes:
        teacher: Node of the teacher's output.
        max_side_px: Longest side of the drawings, that of the lift.
        level: Which masks the lift took; see `splat_sets`.
        frames: Numbers of the judged frames.
        held_out: Whether none of them was lifted for these sources.
    """

    teacher: str
    max_side_px: int
    level: Level
    frames: tuple[int, ...]
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class FrameScore:
    """What a source shows in one frame, beside what the teacher says.

    Attributes:
        cosine: Mean over the judged patches or masks; NaN where there is none.
        kl: Mean KL(teacher || shown), nats; NaN for rows that are no probabilities.
        share: Part of the teacher's patches that is judged.
    """

    cosine: float
    kl: float
    share: float


def feature_tables(
    subjects: Sequence[Subject], report: Reporter, every: int | None = None
) -> dict[str, Table]:
    """Cosine (and KL, of probabilities) between shown rows and the teacher's, of every source.

    What splats show in a patch is the mean of their rows by the light that they send into it. Rows
    of a head such as `field.seen` were decoded for each splat before that. Splats that a student
    shaped are drawn as it left them.

    Args:
        subjects: Runs over splats with their pictures.
        report: Shows what is done.
        every: Judge every so-manyth frame by name; the frames that were left out of the lift, or
            all frames where there are none, if None.

    Raises:
        DataError: If a run is over points, a scene has no pictures, or no source is like the
            output of one teacher.
    """
    totals: list[tuple[str | float | int, ...]] = []
    each: list[tuple[str | float | int, ...]] = []
    for subject in subjects:
        opened, images = _parts(subject)
        teachers = load_teachers(opened.spec.graph)
        groups = _groups(opened, teachers, list(images.names), every)
        for (judged, shaped), sources in groups.items():
            splats = opened.drawn(shaped) if shaped else opened.splats
            assert splats is not None, "looked up when sources were grouped"
            names = [images.names[index] for index in judged.frames]
            with report("features") as progress:
                said = CachedViews(images, teachers[judged.teacher], opened.cache)
                stores = {source: opened.features(source) for source in sources}
                found = _frames(splats, said, judged, stores, progress)
            for source, scores in found.items():
                totals.append(_total(subject.name, source, judged, scores))
                each += [
                    (subject.name, name, source, score.cosine, score.kl, score.share)
                    for name, score in zip(names, scores, strict=True)
                ]
    heads = (
        "scene", "source", "frames", "number", "judged", "cosine", "95 %", "KL", "95 % KL",
    )  # fmt: skip
    one = ("scene", "frame", "source", "cosine", "KL", "judged")
    return {
        "features": Table("Rendered features against the teacher", heads, tuple(totals)),
        "features_each": Table("Every frame", one, tuple(each)),
    }


def _parts(subject: Subject) -> tuple[OpenedRun, Any]:
    opened, scene = subject.opened, subject.scene
    over = opened is not None and (opened.splats is not None or bool(opened.shaped()))
    if opened is None or not over or scene is None:
        raise DataError(
            subject.name,
            wanted="a run over splats, and the photos of its scene",
            got="a scene without pictures" if over else "a run over points",
            fix="xmodal lift PHOTOS --to gaussians --out RUN",
        )
    return opened, scene.images


def _groups(
    opened: OpenedRun, teachers: Mapping[str, Teacher], names: Sequence[str], every: int | None
) -> dict[tuple[Judged, str], list[str]]:
    """Sources that are compared in the same way and drawn with the same splats.

    The second part of a key is a source whose student shaped them, empty for those of the run.
    """
    groups: dict[tuple[Judged, str], list[str]] = {}
    for source in opened.run.sources():
        judged = judged_frames(opened.spec.graph, source, names, every)
        info = opened.run.info(source)
        if judged is None or info.kind != "points":
            continue
        own = opened.drawn(source) is not None
        if not own and opened.splats is None:
            continue  # rows of points, in a run whose student shapes splats
        if info.channels == teachers[judged.teacher].channels:
            groups.setdefault((judged, source if own else ""), []).append(source)
    if not groups:
        raise DataError(
            str(opened.run.path),
            wanted="a source with rows like those of one teacher of frames",
            got=", ".join(opened.run.sources()) or "no source",
            fix="lift a teacher's output by the op `splats`, or teach from `splat_sets`",
        )
    return groups


def judged_frames(
    graph: Graph, source: str, names: Sequence[str], every: int | None = None
) -> Judged | None:
    """How a source is compared with its teacher; None where it has no teacher of frames.

    Args:
        graph: The run's graph.
        source: A node with features, or a head `STUDENT.TEACHER`.
        names: Of all frames.
        every: Judge every so-manyth frame by name.
    """
    above = list(teachers_of(graph, source).values())
    if len(above) != 1 or not above[0].is_teacher:
        return None
    student, _, node = source.rpartition(".")
    known = _known(graph, {node, student} if student else {node})
    lifts = [
        edge
        for edge in graph.order()
        if edge.verb == "lift" and edge.target in known and _sees_frames(graph, edge)
    ]
    # A head is drawn as its own teacher was lifted, whatever else taught its student.
    lifts.sort(key=lambda edge: edge.target not in graph.upstream(node))
    first = next((e.op for e in lifts if hasattr(e.op, "max_side_px")), LiftSplats())
    tested = [set(left_out(names, getattr(edge.op, "hold_out", None))) for edge in lifts]
    unseen = set[int]().union(*tested[:1]).intersection(*tested)
    frames = set(left_out(names, every)) or unseen or set(range(len(names)))
    return Judged(
        teacher=above[0].target,
        max_side_px=getattr(first, "max_side_px", LiftSplats.max_side_px),
        level=getattr(first, "level", "all"),
        frames=tuple(sorted(frames)),
        held_out=frames <= unseen,
    )


def _known(graph: Graph, nodes: set[str]) -> set[str]:
    """All nodes that some are made from or taught by."""
    found: set[str] = set()
    while nodes - found:
        found |= set[str]().union(*(graph.upstream(name) for name in nodes))
        nodes = {name for edge in graph.losses() if edge.target in found for name in edge.sources}
    return found


def _sees_frames(graph: Graph, edge: Edge) -> bool:
    return any(graph.nodes[name].kind in ("feature_map", "masks") for name in edge.sources)


def _frames(
    splats: Splats,
    said: Views[FeatureMap | Masks],
    judged: Judged,
    stores: Mapping[str, Features],
    progress: Report,
) -> dict[str, list[FrameScore]]:
    found: dict[str, list[FrameScore]] = {source: [] for source in stores}
    for done, index in enumerate(judged.frames, start=1):
        view = drawn_view(splats, said[index], judged.max_side_px, judged.level)
        for source, score in frame_scores(view, stores).items():
            found[source].append(score)
        progress(done, len(judged.frames))
    return found


def drawn_view(
    splats: Splats, said: FeatureMap | Masks, max_side_px: int, level: Level = "all"
) -> SplatView:
    """What a teacher says of one frame, and the splats as they are drawn there.

    Args:
        splats: The splats.
        said: The teacher's output.
        max_side_px: Longest side of the drawing.
        level: Of masks that cover a pixel, which count.
    """
    read = view_taps if level == "all" else mask_level_taps(level)
    return next(iter(SplatViews(splats, [said], max_side_px, read=read)))


@dataclass(frozen=True, eq=False)
class JudgedPatches:
    """Patches (or masks) of a frame on which sources are compared with the teacher.

    Attributes:
        sets: What each patch shows; `sets.kept` is its place among the view's rows.
        target: What the teacher says of each, in its row.
        judged: Which of them count.
        share: Part of all rows of the view that counts.
    """

    sets: ShownSets
    target: Float[Tensor, "S C"]
    judged: Bool[Tensor, " S"]
    share: float


@torch.no_grad()
def judged_patches(view: SplatView, stores: Mapping[str, Features]) -> JudgedPatches:
    """Patches that splats cover (at least a fifth) and of which the teacher says something.

    At least half of their light comes from splats that every source observed.

    Args:
        view: What the teacher says, and the weights of the splats.
        stores: Rows of the splats, by source.
    """
    sets = shown_sets(view, least_alpha=_LEAST_ALPHA)
    target = view.rows[sets.kept].float()
    judged = target.norm(dim=1) > 0
    for features in stores.values():
        judged &= _observed_share(sets, features) >= _LEAST_OBSERVED
    return JudgedPatches(sets, target, judged, float(judged.sum()) / max(len(view.rows), 1))


def frame_scores(view: SplatView, stores: Mapping[str, Features]) -> dict[str, FrameScore]:
    """Every source beside the teacher in one frame, all on the same patches or masks.

    Args:
        view: What the teacher says, and the weights of the splats.
        stores: Rows of the splats, by source.
    """
    return patch_scores(judged_patches(view, stores), stores)


@torch.no_grad()
def patch_scores(patches: JudgedPatches, stores: Mapping[str, Features]) -> dict[str, FrameScore]:
    """Every source beside the teacher on given patches.

    Args:
        patches: Those of `judged_patches`.
        stores: Rows of the splats, by source.
    """
    return {source: _score(patches, features) for source, features in stores.items()}


def _observed_share(sets: ShownSets, features: Features) -> Float[Tensor, " S"]:
    light = sets.members.row_sum().clamp_min(_PRECISION)
    return sets.members.scale_columns(observed(features)).row_sum() / light


def _score(patches: JudgedPatches, features: Features) -> FrameScore:
    """One source in one frame; sums are made block by block, as rows are wide."""
    members, target, share = patches.sets.members, patches.target, patches.share
    weights = members.scale_columns(observed(features))
    simplex = features.info.space == "simplex"
    count, cosine, kl = 0, 0.0, 0.0
    for part, rows in composited(weights, features, patches.judged.nonzero().squeeze(1)):
        wanted = target[part]
        count += len(part)
        cosine += float(torch.cosine_similarity(wanted, rows, dim=1).sum())
        if simplex:
            # What is stored in few bits may lie a hair below 0, and its sum beside 1.
            given = rows.clamp_min(0.0)
            given = given / given.sum(1, keepdim=True).clamp_min(_PRECISION)
            kl += len(part) * float(losses.kl(wanted, given))
    if not count:
        return FrameScore(cosine=float("nan"), kl=float("nan"), share=share)
    return FrameScore(
        cosine=cosine / count, kl=kl / count if simplex else float("nan"), share=share
    )


def _total(
    scene: str, source: str, judged: Judged, scores: Sequence[FrameScore]
) -> tuple[str | float | int, ...]:
    cosine = bootstrap(np.array([score.cosine for score in scores], dtype=np.float64))
    kl = bootstrap(np.array([score.kl for score in scores], dtype=np.float64))
    return (
        scene,
        source,
        "held out" if judged.held_out else "shown",
        len(scores),
        float(np.mean([score.share for score in scores])),
        cosine[0],
        f"{cosine[1]:.3f}..{cosine[2]:.3f}",
        kl[0],
        "-" if np.isnan(kl[0]) else f"{kl[1]:.3f}..{kl[2]:.3f}",
    )
