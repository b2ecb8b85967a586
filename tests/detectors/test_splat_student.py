"""Students that shape splats: they begin as what is there, and stay near it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detectors.masking import CellMask
from detectors.point_student import TRUNK_CHANNELS
from detectors.sparse_unet import SparseUNet
from detectors.splat_student import (
    START_CHANNELS,
    GaussianHead,
    SplatScene,
    StartedEncoded,
    shaped,
)

OFFSETS = torch.tensor([0, 20])
CHANCE = torch.Generator().manual_seed(0)
XYZ = torch.rand(20, 3, generator=CHANCE)


def start(num: int = 20) -> torch.Tensor:
    """Discs of 2 cm, opaque by nine tenths, of many colours."""
    scales = torch.tensor([0.02, 0.02, 0.002]).log().repeat(num, 1)
    quats = torch.nn.functional.normalize(torch.randn(num, 4, generator=CHANCE), dim=1)
    logits = torch.full((num, 1), 0.9).logit()
    rgb = 0.1 + 0.8 * torch.rand(num, 3, generator=CHANCE)
    return torch.cat((scales, quats, logits, rgb), 1)


def head(**changed: Any) -> GaussianHead:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"voxel_m": 0.1, "space": "unit", "reach_m": 0.05} | changed
    return GaussianHead(4, 6, trunk=SparseUNet(4, TRUNK_CHANNELS, "tiny"), **settings)


def scene(**changed: Any) -> SplatScene:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 8, "space": "unit", "reach_m": 0.05} | changed
    return SplatScene(20, 6, **settings)


def inputs(net: GaussianHead | SplatScene, begin: torch.Tensor) -> torch.Tensor:
    told = torch.rand(20, 4, generator=CHANCE)
    if isinstance(net, SplatScene):
        told = torch.arange(20.0)[:, None]
    return torch.cat((told, begin), 1)


@pytest.mark.parametrize("made", [head, scene])
def test_new_ones_give_what_they_start_with(made: Any) -> None:
    net, begin = made(), start()
    encoded = net.encode(XYZ, OFFSETS, inputs(net, begin))
    splats = net.shapes(encoded, XYZ)
    assert torch.allclose(splats.means, XYZ)
    assert torch.allclose(splats.quats, begin[:, 3:7])
    assert torch.allclose(splats.scales[0], torch.tensor([0.02, 0.02, 0.002]))
    assert torch.allclose(splats.opacities, torch.full((20,), 0.9))
    assert torch.allclose(splats.rgb, begin[:, 8:])
    rows = net.decode(encoded)
    assert rows.shape == (20, 6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(20), atol=1e-5)


@pytest.mark.parametrize("made", [head, scene])
def test_selected_points_are_as_among_all(made: Any) -> None:
    net, begin = made(), start()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    encoded = net.encode(XYZ, OFFSETS, inputs(net, begin))
    chosen = torch.tensor([7, 3, 3])
    whole, some = net.shapes(encoded, XYZ), net.shapes(encoded, XYZ[chosen], chosen)
    for name in ("means", "quats", "scales", "opacities", "rgb"):
        assert torch.allclose(getattr(some, name), getattr(whole, name)[chosen], atol=1e-5)


def test_changes_by_hand() -> None:
    begin = torch.zeros(1, START_CHANNELS)
    begin[0, 3] = 1.0
    changes = torch.zeros(1, 14)
    changes[0, 0], changes[0, 3], changes[0, 7] = 1.0, 0.5, 1.0
    changes[0, 10], changes[0, 11] = 6.0, 0.25
    made = shaped(changes, begin, torch.ones(1, 3), 0.1)
    tanh = torch.tanh(torch.tensor([1.0, 0.5]))
    assert made.means[0].tolist() == pytest.approx([1 + 0.1 * float(tanh[0]), 1, 1])
    assert float(made.scales[0, 0]) == pytest.approx(4.0 ** float(tanh[1]))
    assert made.quats[0].tolist() == pytest.approx([1, 0.45 * float(tanh[0]), 0, 0])
    opaque = torch.sigmoid(6 * tanh[0])
    assert float(made.opacities[0]) == pytest.approx(float(opaque))
    edge = 1 / 255
    bright = torch.tensor(edge).logit() + 0.25
    assert made.rgb[0].tolist() == pytest.approx([float(bright.sigmoid()), edge, edge])


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_no_change_is_too_large(size: float) -> None:
    begin = start()
    made = shaped(torch.full((20, 14), size), begin, XYZ, 0.05)
    assert float((made.means - XYZ).abs().max()) <= 0.05 + 1e-6
    growth = made.scales / begin[:, :3].exp()
    assert 0.249 < float(growth.min()) <= float(growth.max()) < 4.001
    assert float(made.quats.norm(dim=1).min()) > 0.05
    assert bool(((made.opacities > 0) & (made.opacities < 1)).all())


def test_hidden_points_start_grey_while_training() -> None:
    net, begin = head(mask=CellMask(0.5, 0.2)), start()
    encoded = net.encode(XYZ, OFFSETS, inputs(net, begin))
    assert encoded.masked is not None
    assert 0 < int(encoded.masked.sum()) < 20
    rgb = net.shapes(encoded, XYZ).rgb
    assert torch.allclose(rgb[encoded.masked], torch.tensor(0.5))
    assert torch.allclose(rgb[~encoded.masked], begin[~encoded.masked, 8:])
    told = net.eval().encode(XYZ, OFFSETS, inputs(net, begin))
    assert torch.allclose(net.shapes(told, XYZ).rgb, begin[:, 8:])


@pytest.mark.parametrize("made", [head, scene])
def test_gradients_reach_every_weight(made: Any) -> None:
    net = made()
    encoded = net.encode(XYZ, OFFSETS, inputs(net, start()))
    splats = net.shapes(encoded, XYZ)
    loss = net.decode(encoded).square().sum() * 0 + net.decode_raw(encoded, None).sin().sum()
    for part in (splats.means, splats.quats, splats.scales, splats.opacities, splats.rgb):
        loss = loss + part.sin().sum()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_a_scene_knows_no_other() -> None:
    net = scene()
    other = inputs(net, start())
    other[4, 0] = 20
    with pytest.raises(ValueError, match="asked about splat 20"):
        net.encode(XYZ, OFFSETS, other)


@pytest.mark.parametrize("made", [head, scene])
def test_inputs_have_a_width(made: Any) -> None:
    net = made()
    with pytest.raises(ValueError, match="splat that it starts as"):
        net.encode(XYZ, OFFSETS, torch.zeros(20, 3))


@pytest.mark.parametrize("reach_m", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("made", [head, scene])
def test_splats_can_move(made: Any, reach_m: float) -> None:
    with pytest.raises(ValueError, match="reach_m"):
        made(reach_m=reach_m)


@pytest.mark.parametrize("sizes", [(0, 6, 8), (20, 0, 8), (20, 6, 0)])
def test_a_scene_has_sizes(sizes: tuple[int, int, int]) -> None:
    num, channels, width = sizes
    with pytest.raises(ValueError, match="splats, channels and width"):
        SplatScene(num, channels, width=width, space="unit", reach_m=0.1)


def test_nothing_to_encode() -> None:
    net = scene()
    encoded = net.encode(XYZ[:0], torch.tensor([0, 0]), torch.zeros(0, 1 + START_CHANNELS))
    assert isinstance(encoded, StartedEncoded)
    assert len(net.shapes(encoded, XYZ[:0]).means) == 0
    assert net.decode(encoded).shape == (0, 6)
