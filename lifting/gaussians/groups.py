"""Which splats belong together, and the boxes around them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from lifting.gaussians.projection import covariances
from lifting.gaussians.splats import Splats

__all__ = ["SplatBox", "group_splats", "splat_box"]

# Neighbours that a splat may be linked to: enough to cross from one surface patch to the next, and
# bounded, as one large splat may overlap thousands of small ones.
_NEIGHBOURS = 16
# Two splats touch where both have fallen to exp(-2) of their density.
_REACH_SIGMAS = 2.0
# A quarter turn in steps of a degree: the box is at most 2 % larger than the smallest.
_TURNS = 90


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatBox:
    """A box around splats; `T_world_box` puts its centre at the origin, axes along its sides.

    Attributes:
        T_world_box: Box to world frame.
        size_m: Full extent along the axes of the box, metres.
    """

    T_world_box: Float[Tensor, "4 4"]
    size_m: Float[Tensor, " 3"]

    @property
    def centre_m(self) -> Float[Tensor, " 3"]:
        """Centre in the world frame."""
        return self.T_world_box[:3, 3]


def group_splats(
    splats: Splats, index: Int64[Tensor, " K"], *, link_m: float, solid_opacity: float = 0.1
) -> Int64[Tensor, " K"]:
    """Connected groups of chosen splats, numbered from 0; -1 for splats of no group.

    Two splats are linked where their Gaussians touch or their centres are near. Only solid splats
    link: a haze of transparent ones between two things does not make them one. A transparent splat
    joins the nearest group that it touches, and otherwise none (a floater).

    Args:
        splats: The scene.
        index: The chosen splats; no group has others.
        link_m: Distance of centres up to which splats are linked whatever their size, metres.
        solid_opacity: Opacity from which a splat is solid.

    Raises:
        ValueError: If a setting is out of range.
    """
    if not (math.isfinite(link_m) and link_m > 0):
        raise ValueError(f"link_m must be above 0 and finite, got {link_m}")
    if not 0 <= solid_opacity <= 1:
        raise ValueError(f"solid_opacity must lie in [0, 1], got {solid_opacity}")
    chosen = splats.select(index)
    labels = torch.full((len(chosen),), -1, dtype=torch.int64)
    hard = (chosen.opacities >= solid_opacity).cpu()
    solid, haze = hard.nonzero().squeeze(1), (~hard).nonzero().squeeze(1)
    if not len(solid):
        return labels
    xyz = chosen.means.detach().cpu().double().numpy()
    tree = KDTree(xyz[solid.numpy()])
    a, b = _touching(chosen, solid, solid, tree, link_m)
    links = coo_matrix((np.ones(len(a)), (a.numpy(), b.numpy())), shape=(len(solid), len(solid)))
    found = torch.from_numpy(connected_components(links, directed=False)[1]).long()
    labels[solid] = found
    near, to = _touching(chosen, haze, solid, tree, link_m)
    # Pairs come nearest first: written backwards, the nearest stays.
    labels[haze[near.flip(0)]] = found[to.flip(0)]
    return labels


def splat_box(splats: Splats, *, up: Float[Tensor, " 3"] | None = None) -> SplatBox:
    """A box around splats, one standard deviation of each included.

    Args:
        splats: What the box is put around, at least one.
        up: Direction of the box's third axis, of any length; the box is turned about it to cover
            the least area. Without it the box lies along the axes of the world.

    Raises:
        ValueError: If there is no splat, or `up` has no direction.
    """
    if not len(splats):
        raise ValueError("a box needs at least one splat")
    means = splats.means.detach().cpu().double()
    spread = covariances(splats.quats.detach(), splats.scales.detach()).cpu().double()
    best = torch.eye(3, dtype=torch.float64)
    if up is not None:
        upright = _frame(up)
        angles = [math.pi / 2 * turn / _TURNS for turn in range(_TURNS)]
        turns = [upright @ _turn(angle) for angle in angles]
        areas = [_extent(means, spread, turn)[1][:2].prod() for turn in turns]
        best = turns[int(torch.stack(areas).argmin())]
    centre, size = _extent(means, spread, best)
    T_world_box = torch.eye(4, dtype=torch.float64)
    T_world_box[:3, :3] = best
    T_world_box[:3, 3] = best @ centre
    kind = splats.means.dtype
    return SplatBox(T_world_box=T_world_box.to(kind), size_m=size.to(kind))


def _touching(
    splats: Splats, index: Tensor, targets: Tensor, tree: KDTree, link_m: float
) -> tuple[Tensor, Tensor]:
    """Pairs (position in `index`, position in `targets`) that touch, nearest neighbours first."""
    means = splats.means.detach().cpu().double()
    count = min(_NEIGHBOURS + 1, len(targets))  # a splat may be its own nearest
    apart, near = tree.query(means[index].numpy(), k=count)
    shape = (len(index), count)  # of one neighbour each, it returns no second axis
    distance = torch.from_numpy(np.asarray(apart).reshape(shape).T.reshape(-1))
    second = torch.from_numpy(np.asarray(near).reshape(shape).T.reshape(-1)).long()
    first = torch.arange(len(index)).repeat(count)
    a, b = index[first], targets[second]
    spread = covariances(splats.quats.detach(), splats.scales.detach()).cpu().double()
    ahead = (means[b] - means[a]) / distance.where(distance > 0, torch.ones_like(distance))[:, None]
    reach = torch.zeros_like(distance)
    for end in (a, b):
        squares = torch.einsum("ei,eij,ej->e", ahead, spread[end], ahead)
        reach += _REACH_SIGMAS * squares.clamp_min(0).sqrt()
    linked = (a != b) & (distance <= reach.clamp_min(link_m))
    return first[linked], second[linked]


def _extent(means: Tensor, spread: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and size in a frame whose axes are the columns of `axes`."""
    along = means @ axes
    sigma = torch.einsum("ia,mij,ja->ma", axes, spread, axes).clamp_min(0).sqrt()
    low, high = (along - sigma).amin(0), (along + sigma).amax(0)
    return (low + high) / 2, high - low


def _frame(up: Tensor) -> Tensor:
    """A right-handed frame whose third axis is `up`."""
    z = up.detach().cpu().double()
    length = torch.linalg.vector_norm(z)
    if z.shape != (3,) or not bool(length.isfinite()) or not bool(length > 0):
        raise ValueError(f"up must be a direction of three numbers, got {up.tolist()}")
    z = z / length
    # The world axis that is farthest from up gives a cross product of good length.
    helper = torch.eye(3, dtype=torch.float64)[int(z.abs().argmin())]
    y = torch.linalg.cross(z, helper)
    y = y / torch.linalg.vector_norm(y)
    return torch.stack((torch.linalg.cross(y, z), y, z), 1)


def _turn(angle_rad: float) -> Tensor:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
