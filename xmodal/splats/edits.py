"""Edits of a splat scene by a selection: take a thing out, take it away, give it another colour."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from lifting.gaussians.edits import hue_rotation, map_colours, tint
from lifting.gaussians.splats import Splats
from xmodal.errors import UsageError
from xmodal.store import Features

__all__ = ["Edited", "delete_splats", "extract_splats", "follow_features", "recolour_splats"]

_ANOTHER = "lower the threshold of the query, or ask for something else"


@dataclass(frozen=True, kw_only=True, eq=False)
class Edited:
    """Splats after an edit.

    Attributes:
        splats: The new scene; the old one is not changed.
        source: Row in the old scene that each splat came from, rising.
    """

    splats: Splats
    source: Int64[Tensor, " K"]

    def follow(self, rows: Shaped[Tensor, "M ..."]) -> Shaped[Tensor, "K ..."]:
        """What belongs to the old splats, row by row, for the new ones."""
        return rows[self.source.to(rows.device)]


def extract_splats(splats: Splats, ids: Int64[Tensor, " K"]) -> Edited:
    """The selected splats alone.

    Args:
        splats: The scene.
        ids: Of the selection, in any order.

    Raises:
        UsageError: If the selection is empty or does not fit the scene.
    """
    return _kept(splats, _checked(splats, ids, "extract"))


def delete_splats(splats: Splats, ids: Int64[Tensor, " K"]) -> Edited:
    """The scene without the selected splats. What they hid is seen, as far as it was fitted.

    Raises:
        UsageError: If the selection is empty, is the whole scene, or does not fit it.
    """
    chosen = _checked(splats, ids, "delete")
    stays = torch.ones(len(splats), dtype=torch.bool, device=chosen.device)
    stays[chosen] = False
    if not bool(stays.any()):
        raise UsageError(
            "delete",
            wanted="a selection that leaves something of the scene",
            got=f"all {len(splats)} splats",
            fix="raise the threshold of the query",
        )
    return _kept(splats, stays.nonzero().squeeze(1))


def recolour_splats(
    splats: Splats,
    ids: Int64[Tensor, " K"],
    *,
    colour: tuple[float, float, float] | None = None,
    hue_rad: float | None = None,
) -> Edited:
    """The scene with the selected splats in another colour; highlights turn with them.

    Args:
        splats: The scene, with colours.
        ids: Of the selection.
        colour: Red, green and blue in [0, 1] of splats of mean brightness; shading is kept.
        hue_rad: Instead of a colour, how far hues are turned: a third of a turn takes red to
            green. Greys stay grey.

    Raises:
        UsageError: If the selection is empty or does not fit, splats have no colour, not one of
            `colour` and `hue_rad` is given, or it is out of range.
    """
    chosen = _checked(splats, ids, "recolour")
    if splats.sh is None:
        raise UsageError(
            "recolour",
            wanted="splats with colours",
            got="splats without spherical harmonics",
            fix="fit the scene to photos first",
        )
    old = splats.sh[chosen]
    if colour is not None and hue_rad is None:
        matrix, offset = tint(old, splats.opacities[chosen], _colour(colour).to(old))
    elif hue_rad is not None and colour is None:
        matrix, offset = hue_rotation(_angle(hue_rad)).to(old), old.new_zeros(3)
    else:
        raise UsageError(
            "recolour",
            wanted="a colour or a hue shift, one of them",
            got="none of them" if colour is None else "both",
            fix="for example: colour=(0.1, 0.4, 0.9)",
        )
    sh = splats.sh.index_copy(0, chosen, map_colours(old, matrix, offset))
    return Edited(splats=replace(splats, sh=sh), source=torch.arange(len(splats)))


def follow_features(features: Features, edited: Edited) -> dict[str, npt.NDArray[Any]]:
    """Stored features of edited splats, as the arrays that `Run.write_features` takes.

    Raises:
        UsageError: If the store is of another scene.
    """
    source = edited.source.numpy()
    if len(source) and int(source[-1]) >= len(features.rows):
        raise UsageError(
            "features of edited splats",
            wanted="the store of the scene that was edited",
            got=f"{len(features.rows)} rows, and a splat that was number {int(source[-1])}",
            fix="take the features of the same run",
        )
    names = ("valid", "weight", "num_views", "disagreement", "segments")
    found = {name: getattr(features, name) for name in names}
    arrays = {name: np.asarray(a)[source] for name, a in found.items() if a is not None}
    return {"rows": features.take(source), **arrays}


def _checked(splats: Splats, ids: Tensor, where: str) -> Tensor:
    """A selection, rising and without repeats."""
    if not len(ids):
        raise UsageError(where, wanted="a selection of splats", got="an empty one", fix=_ANOTHER)
    chosen = torch.unique(ids).to(splats.means.device)
    if int(chosen[0]) < 0 or int(chosen[-1]) >= len(splats):
        raise UsageError(
            where,
            wanted=f"splat numbers from 0 to {len(splats) - 1}",
            got=f"{int(chosen[0])} to {int(chosen[-1])}",
            fix="use a selection of this scene; after an edit, ask again",
        )
    return chosen


def _kept(splats: Splats, index: Tensor) -> Edited:
    return Edited(splats=splats.select(index), source=index.cpu())


def _colour(colour: tuple[float, float, float]) -> Tensor:
    # A comparison with NaN is false, so this refuses it, too.
    if len(colour) != 3 or not all(0 <= part <= 1 for part in colour):
        raise UsageError(
            "recolour",
            wanted="red, green and blue from 0 to 1",
            got=str(colour),
            fix="divide colours of 0 to 255 by 255",
        )
    return torch.tensor(colour)


def _angle(hue_rad: float) -> float:
    if not math.isfinite(hue_rad):
        raise UsageError(
            "recolour", wanted="a finite angle, radians", got=str(hue_rad), fix="for example 2.09"
        )
    return hue_rad
