from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any, get_args

import pytest
import torch

from lifting.cameras import Camera
from xmodal import values
from xmodal.graph.ports import KINDS, Port, Ports, assign, describe, ports_of
from xmodal.values import (
    Audio,
    Bev,
    Boxes,
    Depth,
    Embedding,
    FeatureMap,
    Gaussians,
    Image,
    Imu,
    Points,
    Text,
    Value,
    Views,
    Voxels,
)

M, C = 4, 3
ROWS: dict[str, Any] = {
    "rows": torch.rand(M, C),
    "valid": torch.ones(M, dtype=torch.bool),
    "weight": torch.ones(M),
}
OFFSETS = {"offsets": torch.tensor([0, M])}
CAMERA = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=(2, 2))
MADE: dict[str, Any] = {
    "image": lambda: Image(rgb=torch.rand(3, 2, 2), camera=CAMERA, name="0"),
    "depth": lambda: Depth(depth_m=torch.rand(2, 2), camera=CAMERA, name="0"),
    "feature_map": lambda: FeatureMap(grid_hw=(2, 2), camera=CAMERA, name="0", **ROWS),
    "points": lambda: Points(xyz=torch.rand(M, 3), **OFFSETS, **ROWS),
    "voxels": lambda: Voxels(coords=torch.zeros(M, 3).long(), voxel_m=0.1, **OFFSETS, **ROWS),
    "bev": lambda: Bev(range_m=1.0, cell_m=1.0, **OFFSETS, **ROWS),
    "gaussians": lambda: Gaussians(
        means=torch.rand(M, 3),
        quats=torch.rand(M, 4),
        scales=torch.rand(M, 3),
        opacities=torch.rand(M),
        **OFFSETS,
        **ROWS,
    ),
    "audio": lambda: Audio(amplitudes=torch.rand(2, M), rate_hz=16000.0, **OFFSETS),
    "imu": lambda: Imu(
        accel_mps2=torch.rand(M, 3), gyro_radps=torch.rand(M, 3), time_s=torch.rand(M), **OFFSETS
    ),
    "embedding": lambda: Embedding(time_s=torch.rand(M, 2), **OFFSETS, **ROWS),
    "boxes": lambda: Boxes(
        T_world_box=torch.eye(4).repeat(M, 1, 1),
        size_m=torch.rand(M, 3),
        label=torch.zeros(M).long(),
        names=("mug",),
        **OFFSETS,
    ),
    "text": lambda: Text(texts=("a mug",)),
}


def test_every_kind_has_a_value_class() -> None:
    classes = get_args(Value)
    assert len(classes) == len(KINDS)
    assert all(is_dataclass(cls) for cls in classes)


@pytest.mark.parametrize("kind", MADE)
def test_a_value_is_made_and_stays(kind: str) -> None:
    value = MADE[kind]()
    assert value.__class__.__doc__
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


@pytest.mark.parametrize(
    "kind", ["feature_map", "points", "voxels", "bev", "gaussians", "embedding"]
)
def test_values_with_features_expose_them_alike(kind: str) -> None:
    value = MADE[kind]()
    assert value.rows.shape == (M, C)
    assert value.valid.dtype == torch.bool
    assert value.weight.shape == (M,)


@pytest.mark.parametrize(
    ("cls", "parts"),
    [
        (Points, {"xyz": torch.rand(M, 2), **OFFSETS}),
        (Points, {"xyz": torch.rand(M, 3), "rows": torch.rand(M + 1, C), **OFFSETS}),
        (Points, {"xyz": torch.rand(M, 3), "valid": torch.ones(M), **OFFSETS}),
        (Voxels, {"coords": torch.rand(M, 3), "voxel_m": 0.1, **OFFSETS}),
        (Image, {"rgb": torch.rand(2, 2, 3), "camera": CAMERA, "name": "0"}),
        (Embedding, {**ROWS, "weight": torch.ones(M, 1), **OFFSETS}),
    ],
)
def test_shapes_are_checked_when_tests_run(cls: type, parts: dict[str, Any]) -> None:
    """Fails when run-time shape checking is off."""
    with pytest.raises(TypeError):
        cls(**parts)


# ---- ports ---------------------------------------------------------------------------------------


class Texts:
    def __call__(
        self,
        net: torch.nn.Module,
        maps: Views[FeatureMap] | Views[values.Masks],
        depth: Views[Depth] | None,
        *clouds: Points,
        progress: Any = None,
    ) -> Points: ...


class Objects:
    def __call__(self, teacher: Points, student: Points | None = None) -> Embedding: ...


class Lists:
    def __call__(self, cameras: Views[Image]) -> list[FeatureMap]: ...


def test_ports_are_read_from_hints_kept_as_text() -> None:
    assert ports_of(Texts) == Ports(
        inputs=(
            Port(name="maps", kinds=("feature_map", "masks")),
            Port(name="depth", kinds=("depth",), optional=True),
            Port(name="clouds", kinds=("points",), many=True),
        ),
        gives=("points",),
        first="net",
    )


def test_ports_are_read_from_hints_that_are_objects() -> None:
    own = Objects.__call__.__annotations__
    own.update(teacher=Points, student=Points | None, **{"return": Embedding})
    assert ports_of(Objects) == Ports(
        inputs=(
            Port(name="teacher", kinds=("points",)),
            Port(name="student", kinds=("points",), optional=True),
        ),
        gives=("embedding",),
        first=None,
    )
    Lists.__call__.__annotations__.update(cameras=Views[Image], **{"return": list[FeatureMap]})
    assert ports_of(Lists).inputs == (Port(name="cameras", kinds=("image",)),)
    assert ports_of(Lists).gives == ("feature_map",)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("masks", "depth", "points"), ((0,), (1,), (2,))),
        (("points", "masks"), ((1,), (), (0,))),
        (("points", "feature_map", "points", "depth"), ((1,), (3,), (0, 2))),
    ],
)
def test_sources_go_to_the_first_free_port_of_their_kind(kinds: Any, expected: Any) -> None:
    assert assign(ports_of(Texts).inputs, kinds) == expected


@pytest.mark.parametrize(
    ("kinds", "source", "port"),
    [
        (("masks", "masks", "points"), 1, None),
        (("masks", "depth", "depth", "points"), 2, None),
        (("audio",), 0, None),
        (("masks", "depth"), None, "clouds"),
        ((), None, "maps"),
    ],
)
def test_what_fits_nowhere_is_named(kinds: Any, source: int | None, port: str | None) -> None:
    misfit: Any = assign(ports_of(Texts).inputs, kinds)
    assert (misfit.source, misfit.port) == (source, port)


def test_ports_are_described_in_words() -> None:
    words = "feature_map or masks, depth (optional), points (one or more)"
    assert describe(ports_of(Texts).inputs) == words
    assert describe(()) == "nothing"
