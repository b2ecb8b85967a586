"""Start a student's last layer where its teacher's rows are.

A last layer that starts at random must first learn what the teacher's rows have in common, which
takes most of a short training. Their mean and principal directions are known before the first
step, so the rest of the network only has to say how much of each direction a point has.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.spaces import Space

# Mean of ReLU(x) for standard normal x, which is what a layer norm and a ReLU give.
_RELU_MEAN = 1.0 / math.sqrt(2.0 * math.pi)
# Rows start with this part of the teacher's spread; measured best of 0.1, 0.3 and 1.
_SPREAD = 0.3
# Below this a probability of a mean row says nothing that is worth a direction.
_LEAST = 1e-7


@torch.no_grad()
def principal_start(layer: nn.Linear, rows: Float[Tensor, "R C"], space: Space) -> None:
    """Set a linear layer that follows a layer norm and a ReLU.

    In `simplex` space directions are those of log-probabilities, weighted by the mean row: the
    metric of the Kullback-Leibler divergence near that mean.

    Args:
        layer: The last layer; gives rows before they are brought into `space`.
        rows: A sample of the teacher's rows. Rows that are zero or not finite are left out.
        space: Space of the rows.

    Raises:
        ValueError: If the rows are not as wide as the layer.
    """
    if rows.shape[1] != layer.out_features:
        msg = f"the layer gives {layer.out_features} channels, the rows have {rows.shape[1]}"
        raise ValueError(msg)
    rows = rows[torch.isfinite(rows).all(dim=1) & (rows != 0).any(dim=1)].double()
    if len(rows) == 0:
        return
    metric = rows.new_ones(rows.shape[1])
    if space == "simplex":
        rows = rows / rows.sum(dim=1, keepdim=True)
        metric = rows.mean(dim=0).clamp_min(_LEAST).sqrt()
        rows = rows.clamp_min(_LEAST).log()
    mean = rows.mean(dim=0)
    centred = (rows - mean) * metric
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    count = min(layer.in_features, layer.out_features)
    scale = variance.flip(0)[:count].clamp_min(0).sqrt() * _SPREAD
    columns = directions.flip(1)[:, :count] * scale / metric[:, None]
    # The others learn from the first step too; at random they would only add noise.
    layer.weight.zero_()
    layer.weight[:, :count] = columns.to(layer.weight)
    layer.bias.copy_(mean.to(layer.bias) - _RELU_MEAN * layer.weight.sum(dim=1))
