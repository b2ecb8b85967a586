"""What a world is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xmodal.errors import UsageError
from xmodal.world.cameras import PATHS, PathName
from xmodal.world.objects import DEFAULT_OBJECTS, OBJECT_NAMES, SEEN_OBJECTS, UNSEEN_OBJECTS

SplitName = Literal["default", "seen", "unseen", "all"]

SPLITS: dict[SplitName, tuple[str, ...]] = {
    "default": DEFAULT_OBJECTS,
    "seen": SEEN_OBJECTS,
    "unseen": UNSEEN_OBJECTS,
    "all": OBJECT_NAMES,
}
_MAX_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """What a world is made of; the same options always give the same bytes.

    Attributes:
        seed: Seed of everything that is drawn: objects, places, scales, finishes, noise. Seed 0
            has the plain finishes.
        objects: Names to draw from; a name given twice can stand on the table twice. None: all
            objects of `split`.
        num_objects: How many of them; None: all that are named, or 12 of a split (fewer if it has
            fewer).
        split: What to draw from when `objects` is None: the twelve that are best recognised
            (`default`), the objects of the training split (`seen`), those held out of it
            (`unseen`), or `all`.
        num_views: Number of views.
        hw: Height and width of the views, pixels.
        path: Where the cameras stand, see `cameras.camera_path`.
        depth_noise: Disturb depth as a structured-light sensor does (axial noise that grows with
            the square of distance, no reading at depth edges and on grazing surfaces). Points and
            labels stay exact.
        scale_jitter: Sizes are drawn from [1 - jitter, 1 + jitter] times the usual one.
        repaint: Draw the paint of each object; otherwise every mug is the same mug.
        spacing_m: Least distance between points on the table; half of it on objects, four times
            on floor and walls.
    """

    seed: int = 0
    objects: tuple[str, ...] | None = None
    num_objects: int | None = None
    split: SplitName = "default"
    num_views: int = 20
    hw: tuple[int, int] = (480, 640)
    path: PathName = "orbit"
    depth_noise: bool = False
    scale_jitter: float = 0.05
    repaint: bool = False
    spacing_m: float = 0.01

    def pool(self) -> tuple[str, ...]:
        """The names that objects are drawn from."""
        return SPLITS[self.split] if self.objects is None else self.objects

    def count(self) -> int:
        """How many objects are drawn."""
        if self.num_objects is not None:
            return self.num_objects
        return min(12, len(self.pool())) if self.objects is None else len(self.pool())


def check_options(options: WorldOptions) -> None:
    """Refuse options that no world can be made of.

    Raises:
        UsageError: Naming the option, what it may be and what it is.
    """
    unknown = sorted(set(options.objects or ()) - set(OBJECT_NAMES))
    limits = (
        ("seed", options.seed >= 0, "0 or more", options.seed),
        ("objects", not unknown, f"names among {', '.join(OBJECT_NAMES)}", ", ".join(unknown)),
        ("split", options.split in SPLITS, f"one of {', '.join(SPLITS)}", options.split),
        ("path", options.path in PATHS, f"one of {', '.join(PATHS)}", options.path),
        ("num_views", options.num_views >= 1, "1 or more", options.num_views),
        (
            "hw",
            all(8 <= side <= _MAX_SIDE for side in options.hw),
            f"8 to {_MAX_SIDE} pixels",
            options.hw,
        ),
        ("scale_jitter", 0 <= options.scale_jitter < 1, "in [0, 1)", options.scale_jitter),
        ("spacing_m", 0.002 <= options.spacing_m <= 0.1, "0.002 to 0.1 m", options.spacing_m),
    )
    for name, fine, wanted, got in limits:
        if not fine:
            raise UsageError(
                f"world option {name}", wanted=wanted, got=str(got), fix=f"choose another {name}"
            )
    if not 1 <= options.count() <= len(options.pool()):
        raise UsageError(
            "world option num_objects",
            wanted=f"1 to {len(options.pool())}, the number of objects to draw from",
            got=str(options.count()),
            fix="name more objects, choose split='all', or ask for fewer",
        )
