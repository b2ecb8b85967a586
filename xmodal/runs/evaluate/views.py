"""New views: how close renderings of a run's splats are to its photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifting.gaussians.fit import evaluate_views
from xmodal.edges.lift.fit_splats import FitSplats, photo_of
from xmodal.errors import DataError
from xmodal.evaluate import Table, bootstrap
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.frozen import Reporter, splats_node


def view_tables(subjects: Sequence[Subject], report: Reporter) -> dict[str, Table]:
    """PSNR and SSIM of every photo and of all together: those held out of the fit, where some were.

    Photos are compared at the size of the fit, through an ideal lens.

    Raises:
        DataError: If a run has no splats with colours, or a scene no pictures.
    """
    rows: list[tuple[str | float, ...]] = []
    totals: list[tuple[str | float, ...]] = []
    for subject in subjects:
        named, scores, held_out = _scores(subject, report)
        rows += [(subject.name, n, *pair) for n, pair in zip(named, scores.tolist(), strict=True)]
        psnr, ssim = bootstrap(scores[:, 0]), bootstrap(scores[:, 1])
        totals.append(
            (
                subject.name,
                "held out" if held_out else "shown",
                len(scores),
                psnr[0],
                f"{psnr[1]:.2f}..{psnr[2]:.2f}",
                ssim[0],
                f"{ssim[1]:.3f}..{ssim[2]:.3f}",
                float(len(subject.cloud.xyz)),
            )
        )
    heads = ("scene", "photos", "number", "PSNR dB", "95 %", "SSIM", "95 % SSIM", "splats")
    return {
        "views": Table("Renderings against photos", heads, tuple(totals)),
        "views_each": Table("Every photo", ("scene", "photo", "PSNR dB", "SSIM"), tuple(rows)),
    }


def _scores(
    subject: Subject, report: Reporter
) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float64]], bool]:
    """Names of the compared photos, PSNR and SSIM of each, and whether the fit never saw them."""
    opened, scene = subject.opened, subject.scene
    splats = None if opened is None else opened.splats
    if opened is None or splats is None or splats.sh is None or scene is None:
        raise DataError(
            subject.name,
            wanted="a run over splats with colours, and the photos of its scene",
            got="a run over points" if splats is None else "splats or a scene without pictures",
            fix="xmodal lift PHOTOS --to gaussians --out RUN",
        )
    node = splats_node(opened.spec.graph)
    maker = next((e.op for e in opened.spec.graph.order() if e.target == node), None)
    side, chosen = None, list(range(len(scene.images)))
    tested: list[int] = []
    if isinstance(maker, FitSplats):
        side, tested = maker.max_side_px, maker.tested(scene.images)
    found: list[tuple[float, float]] = []
    names: list[str] = []
    wanted = tested or chosen
    with report("views") as progress:
        for done, index in enumerate(wanted, start=1):
            image = scene.images[index]
            photo = photo_of(image, None, side or max(image.camera.hw))
            score = evaluate_views(splats, [photo])[0]
            found.append((score.psnr_db, score.ssim))
            names.append(image.name)
            progress(done, len(wanted))
    return names, np.array(found, dtype=np.float64), bool(tested)
