"""The op `captions`: sets of points with a sentence about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.lift.settings import check_margin
from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from lifting.captions import CaptionedSet, ViewWords
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import Depth, FeatureMap, Masks, Points, PointSets, Views

Level = Literal["scene", "view", "entity"]
_LEVELS: tuple[Level, ...] = ("scene", "view", "entity")


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Tell in words what the scene, each view, and each thing between two views shows.

    The words are the teacher's own: the classes with the most probability where the points are
    seen. Each caption becomes one row of a sentence encoder (all-MiniLM-L6-v2), on the set of
    points that it tells of. A network that writes captions would say more; none is needed.

    Attributes:
        levels: `scene`: all points; `view`: the points that a view sees; `entity`: what two
            neighbouring views share, and what only one of them shows.
        classes: Names of the teacher's columns; the 1000 ImageNet classes when left out.
        words: At most so many names in a caption.
        least_share: A name needs this share of the most frequent one's probability.
        neighbours: For `entity`, each view is compared with so many before it.
        min_points: Smaller sets are left out.
        margin_m: How far a point may lie from a depth reading beside the sensor's noise, metres.

    Source:
        Ding et al., PLA: Language-Driven Open-Vocabulary 3D Scene Understanding, CVPR 2023,
        section 3.2.
    """

    op: Literal["captions"] = "captions"
    levels: tuple[Level, ...] = _LEVELS
    classes: tuple[str, ...] = ()
    words: int = 8
    least_share: float = 0.1
    neighbours: int = 1
    min_points: int = 50
    margin_m: float = 0.03

    channels: ClassVar[int] = 384
    space: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        check_margin(self.margin_m, self.min_points)
        if not self.levels or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be one or more of {_LEVELS}, each once: {self.levels}")
        if self.words < 1 or self.neighbours < 1:
            raise ValueError(
                f"words and neighbours must be 1 or more, not {self.words} and {self.neighbours}"
            )
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"least_share must lie in [0, 1], not {self.least_share}")

    def text_side(self) -> Teacher:
        """Whoever understands questions about the captions' rows."""
        from xmodal.teachers.sentences import SentenceTeacher

        return SentenceTeacher()

    def __call__(
        self, maps: Views[FeatureMap] | Views[Masks], depth: Views[Depth] | None, cloud: Points
    ) -> PointSets:
        """Sets of points of the cloud, one for each caption.

        Args:
            maps: Class probabilities of every frame; taken one at a time. Frames that follow each
                other should overlap.
            depth: Depth of the same frames, or None: then the points hide each other.
            cloud: The points of one scene.

        Raises:
            DataError: If the maps are not probabilities over the named classes, frames and depth
                do not match, or no set of points is large enough for a caption.
        """
        import torch

        from lifting.captions import phrase
        from lifting.operator import LiftOperator
        from lifting.point_sets import stack_rows
        from xmodal.edges.lift.view_lifts import one_scene
        from xmodal.teachers.minilm import MiniLm
        from xmodal.values import PointSets

        one_scene(cloud, "lift to captions")
        found = list(self.captioned(maps, depth, cloud))
        if not found:
            raise DataError(
                "lift to captions",
                wanted=f"at least one set of {self.min_points} points",
                got="no view that sees as many",
                fix="check poses and depth, or lower min_points",
            )
        num = len(cloud.xyz)
        members = [
            LiftOperator(
                crow=torch.tensor([0, len(one.points)]),
                col=one.points,
                weight=torch.ones(len(one.points)),
                num_sources=num,
            )
            for one in found
        ]
        return PointSets(
            rows=MiniLm().embed([phrase(one.words) for one in found]),
            valid=torch.ones(len(found), dtype=torch.bool),
            weight=torch.ones(len(found)),
            membership=stack_rows(members, num_sources=num),
        )

    def captioned(
        self, maps: Views[FeatureMap] | Views[Masks], depth: Views[Depth] | None, cloud: Points
    ) -> Iterator[CaptionedSet]:
        """The sets and their words, before any sentence is encoded.

        Raises:
            DataError: As the call.
        """
        from lifting.captions import caption_sets

        names = self.classes or imagenet_names()
        yield from caption_sets(
            self._views(maps, depth, cloud, names),
            names,
            len(cloud.xyz),
            levels=self.levels,
            most=self.words,
            least_share=self.least_share,
            min_points=self.min_points,
            neighbours=self.neighbours,
        )

    def _views(
        self,
        maps: Views[FeatureMap] | Views[Masks],
        depth: Views[Depth] | None,
        cloud: Points,
        names: Sequence[str],
    ) -> Iterator[ViewWords]:
        from lifting.captions import ViewWords, class_mass, frequent
        from xmodal.edges.lift.view_lifts import membership_lift, view_lifts

        for view, seen, taps in view_lifts(maps, depth, cloud, membership_lift(self.margin_m)):
            _check_probabilities(view.rows, names, view.name)
            mass = class_mass(taps, view.rows)
            words = frequent(mass, names, most=self.words, least_share=self.least_share)
            yield ViewWords(seen.index, words, mass)


def imagenet_names() -> tuple[str, ...]:
    """The first name of each of the 1000 ImageNet classes, in the classifier's order."""
    from xmodal.teachers.imagenet_text import class_descriptions

    # A description is "name, synonym: definition".
    return tuple(text.split(":")[0].split(",")[0].strip() for text in class_descriptions())


def _check_probabilities(rows: Tensor, names: Sequence[str], frame: str) -> None:
    sums = rows.sum(dim=1)
    # Half precision rounds probabilities; rows of zero are places without an answer.
    summed = ((sums - 1).abs() < 0.02) | (sums == 0)
    if rows.shape[1] == len(names) and bool((rows >= 0).all()) and bool(summed.all()):
        return
    kind = f"{rows.shape[1]} channels" if rows.shape[1] != len(names) else "rows of another kind"
    raise DataError(
        f"captions, frame {frame}",
        wanted=f"probabilities over {len(names)} named classes",
        got=kind,
        fix="use a teacher of ImageNet classes (embedded, or imagenet_dense with space: simplex), "
        "or name the teacher's columns in `classes`",
    )
