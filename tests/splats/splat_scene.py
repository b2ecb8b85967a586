"""A small splat scene with known things: two balls before a wall, a haze, and a floater."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lifting.cameras import Camera
from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.splats import Splats
from xmodal.store import Codec, FeatureInfo, Features, Run
from xmodal.teachers.teacher import pairwise_softmax, relevancy_by_products
from xmodal.values import Image

CHANNELS = 48
WORDS = {"mug": 0, "floor": 1, "lamp": 2, "wall": 3}
MUG, LAMP, WALL = (slice(0, 40), slice(40, 70), slice(70, 106))
HAZE, FLOATER, HIDDEN, UNSEEN = 106, 107, 108, 109
NUM = 110


def words(names: list[str]) -> torch.Tensor:
    """Directions of words, `[T, 48]`."""
    generator = torch.Generator().manual_seed(0)
    known = torch.nn.functional.normalize(torch.randn(4, CHANNELS, generator=generator), dim=1)
    return known[[WORDS[name] for name in names]]


def ball(num: int, centre: tuple[float, float, float], radius_m: float = 0.3) -> torch.Tensor:
    """Points spread over a sphere."""
    i = torch.arange(num) + 0.5
    z = 1 - 2 * i / num
    turn = i * 2.39996  # the golden angle: no two neighbours line up
    around = (1 - z * z).sqrt()
    unit = torch.stack((around * turn.cos(), around * turn.sin(), z), 1)
    return torch.tensor(centre) + radius_m * unit


def scene() -> Splats:
    """A mug at x = -1 m, a lamp at x = 1 m, both 4 m ahead, and a wall 6 m ahead.

    A transparent splat hangs between mug and lamp, another far off; one splat lies behind the mug
    where no camera at the origin sees it, and one on the mug's ball was never observed.
    """
    steps = torch.linspace(-2.5, 2.5, 6)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    wall = torch.cat((grid, torch.full((36, 1), 6.0)), 1)
    loose = torch.tensor([[0.0, 0, 4], [3.0, 3, 2], [-1.0, 0, 4.5], [-1.0, 0, 4.28]])
    means = torch.cat((ball(40, (-1, 0, 4)), ball(30, (1, 0, 4)), wall, loose))
    scales = torch.full((NUM, 3), 0.06)
    scales[WALL] = torch.tensor([0.5, 0.5, 0.01])
    opacities = torch.full((NUM,), 0.95)
    opacities[HAZE], opacities[FLOATER] = 0.05, 0.05
    rgb = torch.full((NUM, 3), 0.5)
    rgb[MUG] = torch.tensor([0.8, 0.2, 0.1])
    return Splats(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(NUM, 1),
        scales=scales,
        opacities=opacities,
        sh=sh_from_rgb(rgb, 1),
    )


def camera() -> Camera:
    """At the origin, looking along z."""
    K = torch.tensor([[80.0, 0, 60], [0, 80.0, 40], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.eye(4), hw=(80, 120))


def rows() -> np.ndarray:
    """What each splat shows, as a direction of a word and a little noise."""
    kinds = ["mug"] * 40 + ["lamp"] * 30 + ["wall"] * 36 + ["mug"] * 4
    noise = np.random.default_rng(0).standard_normal((NUM, CHANNELS)).astype(np.float32)
    return words(kinds).numpy() + 0.02 * noise


def features(folder: Path, codec: Codec = "fp16", **changed: np.ndarray) -> Features:
    """The scene's store; the last splat was not observed."""
    valid = np.ones(NUM, np.bool_)
    valid[UNSEEN] = False
    arrays = {
        "rows": np.where(valid[:, None], rows(), 0).astype(np.float32),
        "valid": valid,
        "weight": np.ones(NUM, np.float32),
        "num_views": np.full(NUM, 3, np.int32),
        "disagreement": np.zeros(NUM, np.float32),
        "segments": np.zeros(NUM, np.int32),
    } | changed
    info = FeatureInfo(
        teacher="directions", space="unit", channels=CHANNELS, num_points=len(arrays["rows"]),
        num_valid=int(arrays["valid"].sum()), fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    run = Run(folder)
    run.write_features("lifted", info, codec=codec, **arrays)
    return run.features("lifted")


class DirectionTeacher:
    """Each word is one direction of 48; rows are compared by direction, rivals by soft-max."""

    name, channels, space, fingerprint, licence = "directions", CHANNELS, "unit", "0" * 64, "none"
    unit_rows = True

    def encode_text(self, text: list[str]) -> torch.Tensor:
        return words(text)

    def encode_image(self, image: Image) -> torch.Tensor:
        """A picture shows what its name says."""
        return 2 * words([image.name])[0]

    def encode(self, image: object) -> object:
        raise AssertionError("a query looks at no view")

    def rivals(self, negatives: list[str]) -> list[str]:
        return negatives or ["floor"]

    def score_products(self, products: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        return pairwise_softmax(products, rivals, 10.0)

    def relevancy(self, rows: torch.Tensor, text: list[str], negatives: list[str]) -> torch.Tensor:
        return relevancy_by_products(self, rows, text, negatives)


class ShareTeacher(DirectionTeacher):
    """Rows are shares of four words: the plain dot product is the answer."""

    name, space, unit_rows = "shares", "simplex", False

    def rivals(self, negatives: list[str]) -> list[str]:
        return negatives

    def score_products(self, products: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        return products.clamp(0, 1)
