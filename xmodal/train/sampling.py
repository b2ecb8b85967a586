"""Which scene a step sees, where in it, and which points are compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from xmodal.errors import DataError, UsageError
from xmodal.train.crops import nearest
from xmodal.train.data import Batch, Distill, Piece, Student, TrainScene
from xmodal.train.options import TrainOptions
from xmodal.train.sets import draw_sets
from xmodal.train.views import Shown, draw_views
from xmodal.values import Frames, PointSets

# A moving average with a global view sees this many times the points.
_WIDER = 2


class Sampler:
    """Draws pieces of scenes for the students and edges of one stage.

    Args:
        scenes: All scenes.
        students: Those that a step runs; crops are centred on points that count for the first.
        edges: Edges that count. Points that none of their teachers saw are not compared.
        wide: Students whose moving average sees a wider piece.
        options: Sizes of pieces, and how often each scene is seen.

    Attributes:
        unseen: Indices of scenes without a point that counts; they are never drawn.

    Raises:
        DataError: If there is no other scene.
    """

    def __init__(
        self,
        scenes: Sequence[TrainScene],
        students: Mapping[str, Student],
        edges: Sequence[Distill],
        wide: Collection[str],
        options: TrainOptions,
    ) -> None:
        self.scenes, self.students, self.wide, self.options = scenes, students, wide, options
        first = next(iter(students))
        teachers = {edge.teacher for edge in edges}
        nodes = scenes[0].nodes if scenes else {}
        frames = [e for e in edges if isinstance(nodes.get(e.teacher), Frames)]
        self._viewed = {n: [e for e in frames if e.student == n] for n in students}
        _refuse_wider(self._viewed, wide)
        self._set_teachers = sorted(t for t in teachers if isinstance(nodes.get(t), PointSets))
        self._seen = [{n: scene.seen(n, edges) for n in students} for scene in scenes]
        self._centres = [
            scene.cloud(first).xyz[seen[first]]
            for scene, seen in zip(scenes, self._seen, strict=True)
        ]
        self.unseen = [i for i, centres in enumerate(self._centres) if len(centres) == 0]
        if len(self.unseen) == len(scenes):
            raise DataError(
                f"{len(scenes)} scene(s), edges {', '.join(edge.key for edge in edges)}",
                wanted="at least one observed point",
                got="none that a teacher saw",
                fix="lift the scenes with the graph that is trained, or check the labels",
            )
        share = np.array([self._share(i) for i in range(len(scenes))], dtype=np.float64)
        self._probability = share / share.sum()

    def _share(self, index: int) -> float:
        if index in self.unseen:
            return 0.0
        if self.options.balance_scenes == "equal":
            return 1.0
        if self.options.balance_scenes == "points":
            return float(len(self._centres[index]))
        return float(self.scenes[index].num_voxels)

    def draw(self, rng: np.random.Generator, halve: bool = False) -> Batch:
        """Choose a scene, places in it, and for each student the rows to see and to compare.

        Args:
            rng: Where the choice comes from.
            halve: Draw half as much: half of the crops, or crops of half the size where there is
                an odd number of them.
        """
        options = self.options
        crops, each = options.crops, max(1, options.crop_points // options.crops)
        if halve and crops % 2 == 0:
            crops //= 2
        elif halve:
            each = max(1, each // 2)
        num_compared = max(1, options.loss_rows // (2 if halve else 1))
        index = int(rng.choice(len(self.scenes), p=self._probability))
        scene, places = self.scenes[index], self._centres[index]
        centres = places[torch.from_numpy(rng.integers(len(places), size=crops))]
        pieces: dict[str, Piece] = {}
        wide: dict[str, Piece] = {}
        views: dict[tuple[str, str], tuple[Shown, ...]] = {}
        for name in self.students:
            xyz = scene.cloud(name).xyz
            if self._viewed[name]:
                most = max(1, options.crop_points // (2 if halve else 1))
                pieces[name] = self._in_views(scene, name, most, views, rng)
                continue
            around = centres[:1] if each >= len(xyz) else centres
            seen = self._seen[index][name]
            if name not in self.wide:
                crop = [nearest(xyz, centre, each) for centre in around]
                pieces[name] = _piece(crop, seen, num_compared, rng)
                continue
            wider = [nearest(xyz, centre, _WIDER * each) for centre in around]
            # Crops are cut out of the wider ones, so that each of their points is in both.
            inside = [nearest(xyz[w], c, each) for w, c in zip(wider, around, strict=True)]
            crop = [w[i] for w, i in zip(wider, inside, strict=True)]
            pieces[name] = _piece(crop, seen, num_compared, rng)
            wide[name] = _widened(pieces[name], wider, inside)
        return Batch(scene, pieces, wide, self._sets(scene, rng), views)

    def _in_views(
        self,
        scene: TrainScene,
        name: str,
        most: int,
        views: dict[tuple[str, str], tuple[Shown, ...]],
        rng: np.random.Generator,
    ) -> Piece:
        """What some views show, as one crop; all of it is compared, as pixels need every splat."""
        kept: list[Tensor] = []
        for edge in self._viewed[name]:
            frames, pair = scene.nodes[edge.teacher], (edge.teacher, name)
            assert isinstance(frames, Frames), "looked up when the stage began"
            xyz = scene.cloud(name).xyz
            num = int(getattr(edge.op, "views", 1))
            views[pair], rows = draw_views(
                frames, scene.in_view[pair], xyz, rng, num=num, most=most
            )
            kept.append(rows)
        rows = torch.cat(kept).unique()
        return Piece(rows, _offsets([rows]), torch.arange(len(rows)))

    def _sets(self, scene: TrainScene, rng: np.random.Generator) -> dict[str, Tensor]:
        """The sets that are compared, where a step compares only some."""
        most = self.options.loss_sets
        if most is None:
            return {}
        chosen: dict[str, Tensor] = {}
        for teacher in self._set_teachers:
            value = scene.nodes[teacher]
            assert isinstance(value, PointSets), "looked up when the stage began"
            chosen[teacher] = draw_sets(value, most, rng)
        return chosen


def _refuse_wider(viewed: Mapping[str, Sequence[Distill]], wide: Collection[str]) -> None:
    both = sorted(name for name in wide if viewed.get(name))
    if both:
        raise UsageError(
            f"moving average with a global view, student {both[0]}",
            wanted="a student of crops, which an average can see more around",
            got="one that sees what whole pictures show",
            fix="write view: same at its `ema` edge",
        )


def _offsets(crops: Sequence[Tensor]) -> Tensor:
    return torch.tensor([0, *accumulate(len(crop) for crop in crops)])


def _piece(
    crops: Sequence[Tensor], seen: Tensor, num_compared: int, rng: np.random.Generator
) -> Piece:
    rows = torch.cat(list(crops))
    candidates = seen[rows].nonzero().squeeze(1).numpy()
    chosen = np.sort(rng.permutation(candidates)[:num_compared])
    return Piece(rows, _offsets(crops), torch.from_numpy(chosen))


def _widened(piece: Piece, wider: Sequence[Tensor], inside: Sequence[Tensor]) -> Piece:
    """The piece of the wider crops in which the same rows are compared."""
    offsets = _offsets(wider)
    places = torch.cat([i + start for i, start in zip(inside, offsets.tolist(), strict=False)])
    return Piece(torch.cat(list(wider)), offsets, places[piece.chosen])
