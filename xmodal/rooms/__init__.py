"""Furnished rooms that are heard and seen: echoes, depth, classes, plans, voxels of one geometry.

from xmodal.rooms import RoomSet, make_rooms

make_rooms(Path("rooms"), RoomSet(num=80, test=20))
"""

from xmodal.rooms.make import make_rooms
from xmodal.rooms.options import RoomSet

__all__ = ["RoomSet", "make_rooms"]
