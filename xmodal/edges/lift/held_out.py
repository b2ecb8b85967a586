"""Views that a lift leaves out, so that its features can be tested with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from xmodal.errors import DataError

if TYPE_CHECKING:
    from xmodal.values import FeatureMap, Image, Masks, Views

V = TypeVar("V")


class ChosenViews(Sequence[V], Generic[V]):
    """Some of all views, still read one at a time.

    Args:
        views: All views.
        chosen: Numbers of those to keep.
    """

    def __init__(self, views: Sequence[V], chosen: Sequence[int]) -> None:
        self._views, self._chosen = views, tuple(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> V: ...
    @overload
    def __getitem__(self, index: slice) -> ChosenViews[V]: ...
    def __getitem__(self, index: int | slice) -> V | ChosenViews[V]:
        if isinstance(index, slice):
            return ChosenViews(self._views, self._chosen[index])
        return self._views[self._chosen[index]]


def check_hold_out(every: int | None) -> None:
    """Refuse a setting that leaves nothing to lift.

    Raises:
        ValueError: If every view, or less than one, would be held out.
    """
    if every is not None and every < 2:
        raise ValueError(f"hold_out must be 2 or more, or null for none, not {every}")


def view_names(views: Views[FeatureMap | Masks | Image]) -> list[str]:
    """Names of all views; none is computed or decoded where the views know them.

    Args:
        views: Frames, or what a teacher gives for each.
    """
    for known in (views, getattr(views, "images", None)):
        names: Sequence[str] | None = getattr(known, "names", None)
        if names is not None:
            return list(names)
    return [view.name for view in views]


def left_out(names: Sequence[str], every: int | None) -> list[int]:
    """Numbers of the views that are held out, in the order of the views; none if `every` is None.

    Args:
        names: Of all views.
        every: One of so many is held out, by name, from the first on.
    """
    from xmodal.datasets.photos import held_out

    return [] if every is None else sorted(held_out(names, every)[1])


def left_in(maps: Views[FeatureMap | Masks], every: int | None) -> Views[FeatureMap | Masks]:
    """The views that are lifted; those held out are not even read.

    Args:
        maps: Teacher output of every frame.
        every: One of so many is held out; all are lifted if None.

    Raises:
        DataError: If none is left.
    """
    if every is None:
        return maps
    names = view_names(maps)
    tested = set(left_out(names, every))
    if len(tested) == len(names):
        raise DataError(
            f"lift with hold_out: {every}",
            wanted="two frames or more, to lift some and test with the others",
            got=f"{len(names)} frames",
            fix="raise --max-frames, or leave hold_out away",
        )
    return ChosenViews(maps, [index for index in range(len(names)) if index not in tested])
