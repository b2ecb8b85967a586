"""Lifting: from posed 2D observations to 3D representations. Tensors in, tensors out."""

from lifting.cameras import Camera
from lifting.moments import Lifted, Moments
from lifting.operator import LiftOperator

__all__ = ["Camera", "LiftOperator", "Lifted", "Moments"]
