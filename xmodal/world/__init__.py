"""A table-top world that the project makes itself: labelled, posed RGB-D without any asset file.

Objects are meshes and textures computed by this package, MuJoCo settles and draws them, and the
result is an ordinary posed RGB-D folder with exact labels:

    from xmodal.world import WorldOptions, make_world

    make_world(Path("table"), WorldOptions(seed=1, num_views=24))
"""

from __future__ import annotations

from xmodal.world.dataset import WorldSet, make_worlds
from xmodal.world.make import make_world
from xmodal.world.objects import DEFAULT_OBJECTS, OBJECT_NAMES, SEEN_OBJECTS, UNSEEN_OBJECTS
from xmodal.world.options import WorldOptions

__all__ = [
    "DEFAULT_OBJECTS",
    "OBJECT_NAMES",
    "SEEN_OBJECTS",
    "UNSEEN_OBJECTS",
    "WorldOptions",
    "WorldSet",
    "make_world",
    "make_worlds",
]
