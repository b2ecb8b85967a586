"""Views that decode a frame when it is asked for, and remember the last few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, overload

from jaxtyping import Int
from torch import Tensor

from lifting.cameras import Camera

T = TypeVar("T")

# Frames are visited in order, and a lift asks for the depth, the picture and again the depth of
# one frame; a few are enough, and four 1296x968 pictures are 60 MB.
_REMEMBERED = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """Label ids of one frame, and the camera (colour or depth) whose pixels they are."""

    ids: Int[Tensor, "H W"]
    camera: Camera
    name: str


class LazyViews(Sequence[T]):
    """A sequence of single-view values; each is decoded on access, the last four are kept.

    A slice is a sequence of the same kind and shares the memory.

    Args:
        load: Decodes view i.
        cameras: Camera of every view, known without decoding.
        names: Frame name of every view.
    """

    def __init__(
        self, load: Callable[[int], T], *, cameras: Sequence[Camera], names: Sequence[str]
    ) -> None:
        self._load: Callable[[int], T] = lru_cache(maxsize=_REMEMBERED)(load)
        self.cameras = tuple(cameras)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> LazyViews[T]: ...
    def __getitem__(self, index: int | slice) -> T | LazyViews[T]:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return LazyViews(
                lambda i: self[chosen[i]],
                cameras=[self.cameras[i] for i in chosen],
                names=[self.names[i] for i in chosen],
            )
        return self._load(range(len(self))[index])
