"""The objects a world can hold: each name has one function that makes its model.

A `variant` changes paint, not shape; variant 0 is what the recognition figures are about.
"""

from __future__ import annotations

from collections.abc import Callable

from xmodal.world.models import ObjectModel
from xmodal.world.objects import balls, food, household, kitchen

_MAKERS: dict[str, Callable[[int], ObjectModel]] = {
    "soccer ball": balls.soccer_ball,
    "coffee mug": kitchen.coffee_mug,
    "teapot": kitchen.teapot,
    "banana": food.banana,
    "granny smith": food.granny_smith,
    "wine bottle": kitchen.wine_bottle,
    "pineapple": food.pineapple,
    "bagel": food.bagel,
    "table lamp": household.table_lamp,
    "dumbbell": household.dumbbell,
    "tennis ball": balls.tennis_ball,
    "bucket": kitchen.bucket,
    "vase": kitchen.vase,
    "golf ball": balls.golf_ball,
    "candle": household.candle,
    "computer keyboard": household.keyboard,
    "lemon": food.lemon,
    "orange": food.orange,
    "basketball": balls.basketball,
}

OBJECT_NAMES: tuple[str, ...] = tuple(_MAKERS)


def make_object(name: str, variant: int = 0) -> ObjectModel:
    """Make one object.

    Args:
        name: One of `OBJECT_NAMES`.
        variant: Which paint; any number.

    Raises:
        KeyError: If there is no such object.
    """
    return _MAKERS[name](variant)


DEFAULT_OBJECTS: tuple[str, ...] = OBJECT_NAMES[:12]
UNSEEN_OBJECTS: tuple[str, ...] = ("teapot", "dumbbell", "vase", "golf ball", "lemon")
SEEN_OBJECTS: tuple[str, ...] = tuple(n for n in OBJECT_NAMES if n not in UNSEEN_OBJECTS)
