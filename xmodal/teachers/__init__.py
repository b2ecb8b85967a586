"""Teachers: frozen 2D networks whose features are lifted and distilled.

The protocol is `teacher.Teacher`; the cache of their output is `cache.TeacherCache`. Every teacher
lives in its own module and is built by the graph op of the same name.
"""

from __future__ import annotations

from xmodal.teachers.cache import CachedViews, TeacherCache
from xmodal.teachers.teacher import Teacher

__all__ = ["CachedViews", "Teacher", "TeacherCache"]
