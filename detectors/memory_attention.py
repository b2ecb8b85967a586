"""Memory attention: narrow queries read wide features from a bank of a scene's components."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

# Of the logits at the start: so that a query of random direction leans to a few components.
_START_TEMPERATURE = 0.1


class MemoryAttention(nn.Module):
    """Rows as attention over components of the teacher's features.

    What a scene shows to a teacher is a few hundred different features, seen again and again. They
    are kept once, as they are; a student only says which of them it means.

    Args:
        channels: Width of the queries.
        out_channels: Width of the components.
        num_components: Size of the bank.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Zou et al., M3: 3D-Spatial MultiModal Memory, ICLR 2025: principal scene components and
        Gaussian memory attention.
    """

    components: Tensor

    def __init__(self, channels: int, out_channels: int, *, num_components: int) -> None:
        super().__init__()
        if min(channels, out_channels, num_components) < 1:
            raise ValueError(
                "memory attention needs channels and components of 1 or more, got "
                f"{channels}, {out_channels} and {num_components}"
            )
        self.query = nn.Linear(channels, out_channels, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_START_TEMPERATURE)))
        self.register_buffer("components", torch.randn(num_components, out_channels))

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Choose the components from a sample of the teacher's rows: each far from all others.

        Args:
            rows: Rows of zeros or of NaN are left out.

        Raises:
            ValueError: If no row is left.
        """
        rows = rows.to(self.components)
        usable = rows[rows.isfinite().all(1) & (rows != 0).any(1)]
        if not len(usable):
            raise ValueError("memory attention needs rows of the teacher to start from, got none")
        chosen = farthest_directions(usable, len(self.components))
        # A scene of fewer different features than components holds some of them twice.
        times = -(-len(self.components) // len(chosen))
        self.components.copy_(usable[chosen.repeat(times)][: len(self.components)])

    def forward(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        """The mean of components by how much each query means them."""
        keys = functional.normalize(self.components, dim=1)
        logits = self.query(rows) @ keys.T * self.log_scale.exp()
        return logits.softmax(dim=1) @ self.components


def farthest_directions(rows: Float[Tensor, "R C"], num: int) -> Int64[Tensor, " K"]:
    """Rows of which each, when chosen, has the smallest cosine to those chosen before.

    Args:
        rows: Not zero.
        num: How many at most; fewer when all others repeat a chosen direction.

    Returns:
        Row numbers in the order of choice; the first is the row nearest to the mean direction.
    """
    unit = functional.normalize(rows, dim=1)
    first = int((unit @ unit.mean(0)).argmax())
    chosen, nearest = [first], unit @ unit[first]
    while len(chosen) < min(num, len(rows)):
        following = int(nearest.argmin())
        # Rounding makes equal directions differ by about this much.
        if float(nearest[following]) > 1 - 1e-6:
            break
        chosen.append(following)
        nearest = torch.maximum(nearest, unit @ unit[following])
    return torch.tensor(chosen)
