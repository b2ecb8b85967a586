"""New views: how close renderings of a run's splats are to its photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifting.gaussians.fit import evaluate_views
from lifting.gaussians.splats import Splats
from xmodal.edges.lift.fit_splats import FitSplats, photo_of
from xmodal.edges.lift.frames import LiftFrames
from xmodal.edges.lift.held_out import left_out, view_names
from xmodal.errors import DataError
from xmodal.evaluate import Table, bootstrap
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.frozen import Reporter, splats_node
from xmodal.values import Image, Views

_Scores = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def view_tables(subjects: Sequence[Subject], report: Reporter) -> dict[str, Table]:
    """PSNR and SSIM of every photo and of all together: those held out of the fit, where some were.

    Photos are compared at the size of the fit, through an ideal lens. Splats that a student shaped
    have rows of their own, at the size of the frames that taught it.

    Raises:
        DataError: If a run has no splats with colours, or a scene no pictures.
    """
    rows: list[tuple[str | float, ...]] = []
    totals: list[tuple[str | float, ...]] = []
    for subject in subjects:
        for judged in _judged(subject):
            named, scores = _scores(judged, report)
            found = zip(named, scores.tolist(), strict=True)
            rows += [(judged.name, name, *pair) for name, pair in found]
            totals.append(_total(judged, scores))
    heads = ("scene", "photos", "number", "PSNR dB", "95 %", "SSIM", "95 % SSIM", "splats")
    return {
        "views": Table("Renderings against photos", heads, tuple(totals)),
        "views_each": Table("Every photo", ("scene", "photo", "PSNR dB", "SSIM"), tuple(rows)),
    }


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Splats to compare with photos.

    Attributes:
        name: Of the scene and, for splats of a student, of that.
        splats: With colours.
        images: The photos.
        frames: Numbers of those that are compared.
        max_side_px: Largest side that they are compared at; their own if None.
        held_out: Whether the splats never saw them.
    """

    name: str
    splats: Splats
    images: Views[Image]
    frames: tuple[int, ...]
    max_side_px: int | None
    held_out: bool


def _judged(subject: Subject) -> list[_Judged]:
    """The fitted splats of a run, then those that its students shaped."""
    opened, scene = subject.opened, subject.scene
    shaped = [] if opened is None else opened.shaped()
    splats = None if opened is None else opened.splats
    bare = splats is None or splats.sh is None
    if opened is None or scene is None or (bare and not shaped):
        raise DataError(
            subject.name,
            wanted="a run over splats with colours, and the photos of its scene",
            got="a run over points" if splats is None else "splats or a scene without pictures",
            fix="xmodal lift PHOTOS --to gaussians --out RUN",
        )
    everything = tuple(range(len(scene.images)))
    graph, found = opened.spec.graph, list[_Judged]()

    def add(name: str, splats: Splats, side: int | None, tested: Sequence[int]) -> None:
        chosen = tuple(tested) or everything
        one = _Judged(
            name=name,
            splats=splats,
            images=scene.images,
            frames=chosen,
            max_side_px=side,
            held_out=bool(tested),
        )
        found.append(one)

    makers = {edge.target: edge.op for edge in graph.order()}
    if splats is not None and not bare:
        maker = makers.get(splats_node(graph) or "")
        fitted = isinstance(maker, FitSplats)
        tested = maker.tested(scene.images) if fitted else []
        add(subject.name, splats, maker.max_side_px if fitted else None, tested)
    for name in shaped:
        taught = [makers.get(edge.sources[0]) for edge in graph.losses() if edge.target == name]
        frames = next((op for op in taught if isinstance(op, LiftFrames)), None)
        own = opened.drawn(name)
        assert own is not None, "listed as shaped"
        side = None if frames is None else frames.max_side_px
        tested = left_out(view_names(scene.images), None if frames is None else frames.hold_out)
        add(f"{subject.name}, {name}", own, side, tested)
    return found


def _total(judged: _Judged, scores: _Scores) -> tuple[str | float, ...]:
    psnr, ssim = bootstrap(scores[:, 0]), bootstrap(scores[:, 1])
    return (
        judged.name,
        "held out" if judged.held_out else "shown",
        str(len(scores)),
        psnr[0],
        f"{psnr[1]:.2f}..{psnr[2]:.2f}",
        ssim[0],
        f"{ssim[1]:.3f}..{ssim[2]:.3f}",
        str(len(judged.splats)),
    )


def _scores(judged: _Judged, report: Reporter) -> tuple[list[str], _Scores]:
    """Names of the compared photos, PSNR and SSIM of each."""
    found: list[tuple[float, float]] = []
    names: list[str] = []
    with report("views") as progress:
        for done, index in enumerate(judged.frames, start=1):
            image = judged.images[index]
            photo = photo_of(image, None, judged.max_side_px or max(image.camera.hw))
            score = evaluate_views(judged.splats, [photo])[0]
            found.append((score.psnr_db, score.ssim))
            names.append(image.name)
            progress(done, len(judged.frames))
    return names, np.array(found, dtype=np.float64)
