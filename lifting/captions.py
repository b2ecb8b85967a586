"""From what views see to words: the most frequent classes of sets of points.

No network writes sentences here; a caption is a list of names, read off class probabilities that
the lift operators gather over a view or over part of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.operator import LiftOperator

Level = Literal["scene", "view", "entity"]

__all__ = ["CaptionedSet", "Level", "ViewWords", "caption_sets", "class_mass", "frequent", "phrase"]


class ViewWords(NamedTuple):
    """What a view shows: its points, and the names of what is in it.

    Attributes:
        points: Points that the view sees, ascending.
        words: Names, the most frequent first.
        mass: Probability mass of each class over the view.
    """

    points: Int64[Tensor, " n"]
    words: tuple[str, ...]
    mass: Float[Tensor, " C"]


class CaptionedSet(NamedTuple):
    """A set of points and the names that tell of it."""

    level: Level
    points: Int64[Tensor, " n"]
    words: tuple[str, ...]


def class_mass(taps: LiftOperator, rows: Float[Tensor, "R C"]) -> Float[Tensor, " C"]:
    """Probability mass of each class over all targets of an operator, summing to 1.

    It is `1' W f`, so only the columns' sums meet the features and no target is ever filled.

    Args:
        taps: Targets x the view's rows.
        rows: Class probabilities of those rows.

    Returns:
        Shares; all zero if no target reads any row.
    """
    mass = taps.transpose().row_sum().to(rows.dtype) @ rows
    total = mass.sum()
    return mass / total if bool(total > 0) else torch.zeros_like(mass)


def frequent(
    mass: Float[Tensor, " C"], names: Sequence[str], *, most: int, least_share: float
) -> tuple[str, ...]:
    """Names of the classes with the most mass, the heaviest first.

    Args:
        mass: Mass of each class.
        names: Their names; classes that share a name add up to one word.
        most: At most so many words.
        least_share: Words with less than this share of the heaviest one's mass are left out.
    """
    total: dict[str, float] = {}
    heaviest: list[int] = mass.topk(min(4 * most, len(mass))).indices.tolist()
    for index in heaviest:
        total[names[index]] = total.get(names[index], 0.0) + float(mass[index])
    ranked = sorted(total, key=lambda word: (-total[word], word))[:most]
    return tuple(w for w in ranked if total[w] > 0 and total[w] >= least_share * total[ranked[0]])


def caption_sets(
    views: Iterable[ViewWords],
    names: Sequence[str],
    num_points: int,
    *,
    levels: Sequence[Level],
    most: int,
    least_share: float,
    min_points: int,
    neighbours: int = 1,
) -> Iterator[CaptionedSet]:
    """Sets of points with words at the level of the scene, of views, and of things.

    A thing is what two neighbouring views share, or what one shows and the other does not: the
    points of the intersection with the words that both captions have, those of a difference with
    the words that only that caption has.

    Args:
        views: Views in order; neighbours in this order should overlap. So many as are compared
            are kept at a time.
        names: Names of the classes.
        num_points: Number of points of the scene.
        levels: Which levels to give.
        most: At most so many words in a caption.
        least_share: See `frequent`.
        min_points: Smaller sets are left out.
        neighbours: Each view is compared with so many before it.

    Source:
        Ding et al., PLA: Language-Driven Open-Vocabulary 3D Scene Understanding, CVPR 2023,
        section 3.2.
    """
    before: deque[ViewWords] = deque(maxlen=max(neighbours, 1))
    whole: Tensor | None = None
    for view in views:
        weighed = view.mass * len(view.points)
        whole = weighed if whole is None else whole + weighed
        if "view" in levels:
            yield from _large_enough(CaptionedSet("view", view.points, view.words), min_points)
        for earlier in before if "entity" in levels else ():
            for found in _entities(earlier, view):
                yield from _large_enough(found, min_points)
        before.append(view)
    if "scene" in levels and whole is not None:
        words = frequent(whole, names, most=most, least_share=least_share)
        found = CaptionedSet("scene", torch.arange(num_points), words)
        yield from _large_enough(found, min_points)


def phrase(words: Sequence[str]) -> str:
    """A caption from names: `a photo of an apple, a coffee mug and a teapot`.

    Raises:
        ValueError: If there are no words.
    """
    if not words:
        raise ValueError("a caption needs at least one word")
    things = [f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}" for word in words]
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return f"a photo of {listed}"


def _entities(one: ViewWords, other: ViewWords) -> Iterator[CaptionedSet]:
    shared = torch.isin(one.points, other.points, assume_unique=True)
    rest = ~torch.isin(other.points, one.points, assume_unique=True)
    yield CaptionedSet("entity", one.points[shared], _keep(one.words, other.words, common=True))
    yield CaptionedSet("entity", one.points[~shared], _keep(one.words, other.words, common=False))
    yield CaptionedSet("entity", other.points[rest], _keep(other.words, one.words, common=False))


def _keep(words: Sequence[str], others: Sequence[str], *, common: bool) -> tuple[str, ...]:
    return tuple(word for word in words if (word in others) == common)


def _large_enough(found: CaptionedSet, min_points: int) -> Iterator[CaptionedSet]:
    if found.words and len(found.points) >= min_points:
        yield found
