"""What fusing label maps is worth: read back in a left-out view, against every single neighbour.

The scene is `apc_shelf_two_objects`: 15 robot-arm views of a shelf with a label map each. In turn,
each view is left out: its label map is only the truth. The pixels that it has depth for, as points
in the world, are the places to be labelled, in both arms alike:

- a *neighbour* is one of the other 14 views warped by depth: a point reads the label map of that
  view where the view's own depth map confirms the point;
- *fused* is all 14 together: the moments of the same 14 lift operators (`view_operator`: visibility
  x quality x bilinear taps over the full label map, one-hot rows), added and divided once.

So the arms share geometry, visibility rule and sampling, and differ in nothing but fusion. IoU is
the mean over the two objects, false positives on the background included:

(a) over all pixels of the left-out view: a foreground pixel without a prediction is a miss;
(b) over the pixels that both the fused reading and the neighbour observe, for each neighbour.

Much of (a) is coverage: registered depth is a grid with gaps, and the gaps of two views rarely
meet. Therefore all is measured a second time with small holes of all depth maps closed, again in
both arms alike.

What this does not show: without any depth of the left-out view (a cloud fused from the others,
drawn into it, against each neighbour splatted into it) the best neighbour had the higher (a) in
nearly all views when it was tried. The label maps disagree with one another by angle of view, so
that the view next door errs as the truth does; fusion averages over all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.records import Figures, shown, write_figures
from lifting.cameras import unproject_depth
from lifting.moments import Moments
from lifting.views import LiftView, PointLift, view_operator
from lifting.visibility import DepthNoise
from xmodal.datasets import Scene, open_scene
from xmodal.errors import DataError, XmodalError
from xmodal.evaluate import OTHER, UNKNOWN, Table, bootstrap, confusion, iou_per_class

NAME = "apc_shelf_two_objects"

# A robot arm knows its poses better than a hand-held scan: 1 cm of margin in place of 3. The counts
# of views below are the same with margins from 0.5 to 3 cm.
OPTIONS = PointLift(noise=DepthNoise(margin_m=0.01))

# Two rounds close the one and two pixel wide gaps that registering depth to a finer image leaves.
_CLOSING_ROUNDS = 2
_CLOSING_SPREAD_M = 0.02  # neighbours farther apart than this lie on different surfaces
_UNSEEN = -3  # beside OTHER and UNKNOWN: no view observes the pixel


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """IoU in one left-out view; of neighbours, one number for each, in the order of views.

    Attributes:
        view: Name of the view.
        fused: (a) of the fused reading.
        neighbours: (a) of each neighbour.
        covered: Share of the foreground that the fused reading observes.
        neighbours_covered: The same of each neighbour.
        fused_shared: (b) of the fused reading, over the pixels shared with each neighbour.
        neighbours_shared: (b) of each neighbour, over the same pixels.
    """

    view: str
    fused: float
    neighbours: tuple[float, ...]
    covered: float
    neighbours_covered: tuple[float, ...]
    fused_shared: tuple[float, ...]
    neighbours_shared: tuple[float, ...]

    @property
    def best(self) -> float:
        """(a) of the best neighbour."""
        return max(self.neighbours)

    @property
    def best_covered(self) -> float:
        """Share of the foreground that the best neighbour observes."""
        return self.neighbours_covered[self.neighbours.index(self.best)]

    @property
    def median_fused(self) -> float:
        """(b) of the fused reading, median over neighbours."""
        return float(np.nanmedian(self.fused_shared))

    @property
    def median_neighbour(self) -> float:
        """(b) of the median neighbour."""
        return float(np.nanmedian(self.neighbours_shared))

    @property
    def beaten(self) -> int:
        """How many neighbours fused is above on the pixels that it shares with them."""
        pairs = zip(self.fused_shared, self.neighbours_shared, strict=True)
        return sum(fused > neighbour for fused, neighbour in pairs)


def measure(scene: Scene, *, closed: bool = False) -> list[LeftOut]:
    """Leave each view out once.

    Args:
        scene: With label maps and depth.
        closed: Close small holes of all depth maps first.

    Raises:
        DataError: If the scene lacks label maps or depth, or has fewer than three views.
    """
    classes = _classes(scene)
    truths = [_truth(scene, index, classes) for index in range(len(scene.images))]
    views = [_view(scene, i, truth, len(classes), closed) for i, truth in enumerate(truths)]
    return [_leave_out(views, truths, index, len(classes)) for index in range(len(views))]


def close_holes(depth_m: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Fill pixels without a reading from readings around them that lie on one surface.

    Args:
        depth_m: z-depth, metres, 0 where there is no reading.

    Returns:
        The map; a hole takes the mean of the readings among its eight neighbours when there are
        two or more within 2 cm of each other. Two rounds.
    """
    for _ in range(_CLOSING_ROUNDS):
        padded = torch.nn.functional.pad(depth_m[None, None], (1, 1, 1, 1))
        around = torch.nn.functional.unfold(padded, 3).view(9, *depth_m.shape)
        count = (around > 0).sum(0)
        nearest = around.where(around > 0, torch.inf).amin(0)
        one_surface = (count >= 2) & (around.amax(0) - nearest < _CLOSING_SPREAD_M)
        mean = around.sum(0) / count.clamp_min(1)
        depth_m = depth_m.where((depth_m > 0) | ~one_surface, mean)
    return depth_m


def _classes(scene: Scene) -> list[int]:
    """Label ids of the objects, in order."""
    found = {
        "label maps": scene.label_maps is not None and len(scene.label_maps) == len(scene.images),
        "depth": scene.depths is not None,
        "three views": len(scene.images) >= 3,
    }
    missing = [what for what, there in found.items() if not there]
    if missing:
        raise DataError(
            str(scene.root),
            wanted="label maps and depth of at least three views",
            got=f"no {' and no '.join(missing)}",
            fix=f"use {NAME} or a scene like it",
        )
    return sorted(i for i, name in scene.label_names.items() if name != "unlabelled")


def _truth(scene: Scene, index: int, classes: Sequence[int]) -> Int64[Tensor, " P"]:
    """Class of every pixel, row-major; OTHER for the background."""
    assert scene.label_maps is not None, "checked by _classes"
    ids = scene.label_maps[index].ids.reshape(-1)
    truth = torch.full(ids.shape, OTHER, dtype=torch.int64)
    for position, number in enumerate(classes):
        truth[ids == number] = position
    return truth


def _view(scene: Scene, index: int, truth: Tensor, num_classes: int, closed: bool) -> LiftView:
    """A label map as one-hot rows, the background last."""
    assert scene.label_maps is not None and scene.depths is not None, "checked by _classes"
    label_map, depth = scene.label_maps[index], scene.depths[index]
    hot = truth.where(truth >= 0, num_classes)
    return LiftView(
        camera=label_map.camera,
        rows=torch.nn.functional.one_hot(hot, num_classes + 1).float(),
        grid_hw=label_map.camera.hw,
        depth_m=close_holes(depth.depth_m) if closed else depth.depth_m,
        depth_camera=depth.camera,
        name=label_map.name,
    )


def _leave_out(
    views: Sequence[LiftView], truths: Sequence[Tensor], index: int, num_classes: int
) -> LeftOut:
    left_out, truth = views[index], truths[index].numpy()
    assert left_out.depth_m is not None and left_out.depth_camera is not None, "made by _view"
    if left_out.depth_camera.hw != left_out.camera.hw:
        raise DataError(
            left_out.name,
            wanted="depth registered to the picture",
            got=f"depth {left_out.depth_camera.hw}, label map {left_out.camera.hw}",
            fix=f"use {NAME} or a scene like it",
        )
    xyz, pixel = unproject_depth(left_out.depth_m, left_out.depth_camera)
    total = Moments.zeros(len(xyz), num_classes + 1)
    neighbours: list[NDArray[np.int64]] = []
    for other in (view for position, view in enumerate(views) if position != index):
        moments = view_operator(other, xyz, options=OPTIONS).moments(other.rows)
        neighbours.append(_read(moments, pixel, len(truth)))
        total = total.add(moments)
    fused = _read(total, pixel, len(truth))
    pairs = [_shared(fused, neighbour, truth, num_classes) for neighbour in neighbours]
    return LeftOut(
        view=left_out.name,
        fused=_iou(fused, truth, num_classes),
        neighbours=tuple(_iou(neighbour, truth, num_classes) for neighbour in neighbours),
        covered=_covered(fused, truth),
        neighbours_covered=tuple(_covered(neighbour, truth) for neighbour in neighbours),
        fused_shared=tuple(pair[0] for pair in pairs),
        neighbours_shared=tuple(pair[1] for pair in pairs),
    )


def _read(moments: Moments, pixel: Tensor, num_pixels: int) -> NDArray[np.int64]:
    """The heaviest class of every pixel, `OTHER` for the background, `_UNSEEN` where none is."""
    lifted = moments.finish()
    best = lifted.rows.argmax(1)
    best = best.where(best < lifted.rows.shape[1] - 1, OTHER)
    reading = np.full(num_pixels, _UNSEEN)
    reading[pixel.numpy()] = best.where(lifted.valid, _UNSEEN).numpy()
    return reading


def _shared(
    fused: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    truth: NDArray[np.int64],
    num_classes: int,
) -> tuple[float, float]:
    both = (fused != _UNSEEN) & (neighbour != _UNSEEN)
    counted = np.where(both, truth, UNKNOWN)
    return _iou(fused, counted, num_classes), _iou(neighbour, counted, num_classes)


def _covered(reading: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float((reading[truth >= 0] != _UNSEEN).mean())


def _iou(reading: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int) -> float:
    """Mean IoU of the objects that occur in either; NaN where none does."""
    predicted = np.where(reading == _UNSEEN, OTHER, reading)
    iou = iou_per_class(confusion(predicted, truth, num_classes))
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


# ---- report ------------------------------------------------------------------------------------


def figures(plain: Sequence[LeftOut], closed: Sequence[LeftOut]) -> Figures:
    """All findings by name; means over views with 95 % bootstrap intervals of the gains."""
    found: Figures = {"name": "apc_fusion", "views": len(plain)}
    for suffix, results in (("", plain), ("_closed", closed)):
        gain_a = bootstrap(np.array([r.fused - r.best for r in results]))
        gain_b = bootstrap(np.array([r.median_fused - r.median_neighbour for r in results]))
        found |= {
            f"a_above_every{suffix}": sum(r.fused > r.best for r in results),
            f"b_above_median{suffix}": sum(r.median_fused > r.median_neighbour for r in results),
            f"fewest_beaten{suffix}": min(r.beaten for r in results),
            f"fused_a{suffix}": _mean([r.fused for r in results]),
            f"best_neighbour_a{suffix}": _mean([r.best for r in results]),
            f"fused_covered{suffix}": _mean([r.covered for r in results]),
            f"best_neighbour_covered{suffix}": _mean([r.best_covered for r in results]),
            f"fused_b{suffix}": _mean([r.median_fused for r in results]),
            f"median_neighbour_b{suffix}": _mean([r.median_neighbour for r in results]),
            f"gain_a{suffix}": round(gain_a[0], 4),
            f"gain_a_from{suffix}": round(gain_a[1], 4),
            f"gain_a_to{suffix}": round(gain_a[2], 4),
            f"gain_b{suffix}": round(gain_b[0], 4),
            f"gain_b_from{suffix}": round(gain_b[1], 4),
            f"gain_b_to{suffix}": round(gain_b[2], 4),
        }
    return found


def summary(found: Figures) -> Table:
    """The findings in four lines."""
    rows: list[tuple[str | float, ...]] = []
    for suffix, depth in (("", "as recorded"), ("_closed", "small holes closed")):
        covered = (found[f"{arm}_covered{suffix}"] for arm in ("fused", "best_neighbour"))
        share = " / ".join(f"{float(value):.0%}" for value in covered)
        for letter, pixels, rival, count, cover in (
            ("a", "all", "best_neighbour", "a_above_every", share),
            ("b", "both observe", "median_neighbour", "b_above_median", "-"),
        ):
            low, high = found[f"gain_{letter}_from{suffix}"], found[f"gain_{letter}_to{suffix}"]
            rows.append(
                (
                    depth,
                    f"({letter}) {pixels}",
                    float(found[f"fused_{letter}{suffix}"]),
                    f"{float(found[f'{rival}_{letter}{suffix}']):.3f} ({rival.split('_')[0]})",
                    f"{found[f'gain_{letter}{suffix}']:+.3f} ({low:+.3f}..{high:+.3f})",
                    f"{found[f'{count}{suffix}']} of {found['views']}",
                    cover,
                )
            )
    columns = (
        "depth", "pixels", "fused IoU", "neighbour IoU", "gain (95 %)", "fused above in",
        "foreground observed",
    )  # fmt: skip
    title = f"{found['views']} label maps fused, read back in a left-out view"
    return Table(title, columns, tuple(rows))


def per_view(results: Sequence[LeftOut]) -> Table:
    """One line for each left-out view."""
    columns = (
        "view", "(a) fused", "(a) best neighbour", "(b) fused", "(b) median neighbour",
        "(b) neighbours beaten",
    )  # fmt: skip
    rows = tuple(
        (r.view, *(round(x, 4) for x in (r.fused, r.best, r.median_fused, r.median_neighbour)),
         f"{r.beaten} of {len(r.neighbours)}")
        for r in results
    )  # fmt: skip
    return Table("IoU per left-out view, depth as recorded", columns, rows)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _folder(given: Path | None) -> Path:
    if given is not None:
        return given
    if root := os.environ.get("XMODAL_DATA"):
        return Path(root) / NAME
    raise DataError(
        "XMODAL_DATA",
        wanted=f"the folder that holds {NAME}",
        got="the variable is not set",
        fix="set it, or give the scene: python -m benchmarks.apc_fusion SCENE",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code is 1 if fused is not above as often as it must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apc_fusion")
    parser.add_argument("scene", nargs="?", type=Path, help=f"default: $XMODAL_DATA/{NAME}")
    parser.add_argument("--json", action="store_true", help="print one JSON line, nothing else")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results")
    options = parser.parse_args(argv)
    try:
        scene = open_scene(_folder(options.scene))
        plain, closed = measure(scene), measure(scene, closed=True)
    except XmodalError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found = figures(plain, closed)
    tables = per_view(plain), summary(found)
    print(json.dumps(found) if options.json else "\n\n".join(table.text() for table in tables))
    if options.record:
        shown_tables = [shown(tables[1]), shown(tables[0], folded=True)]
        write_figures("apc_fusion", seed=0, tables=shown_tables, figures=[found])
    return int(found["a_above_every"] != len(plain) or found["b_above_median"] != len(plain))


if __name__ == "__main__":
    raise SystemExit(main())
