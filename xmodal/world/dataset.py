"""Many worlds as one dataset: scenes to train on, unseen layouts, and unseen objects.

    from xmodal.world import WorldSet, make_worlds

    make_worlds(Path("worlds"), WorldSet(train=40, test=10, novel=10))

Each scene is an ordinary labelled, posed RGB-D folder named `SPLIT-NNN`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from xmodal.atomic import write_json
from xmodal.errors import DataError, UsageError
from xmodal.world.cameras import PATHS
from xmodal.world.make import make_world
from xmodal.world.objects import SEEN_OBJECTS, UNSEEN_OBJECTS
from xmodal.world.options import WorldOptions

WorldSplit = Literal["train", "test", "novel", "dev"]
WORLD_SPLITS: tuple[WorldSplit, ...] = get_args(WorldSplit)
# Seeds of the splits lie apart, so that a larger dataset begins with the same scenes.
_FIRST_SEED: dict[WorldSplit, int] = {"train": 1000, "test": 2000, "novel": 3000, "dev": 500}
_MOST = 500
# How many objects stand on a table: room for all, and no two scenes of a split need be alike.
_FEWEST_SEEN, _MOST_SEEN = 7, 11
_FEWEST_UNSEEN, _MOST_UNSEEN = 5, 8


@dataclass(frozen=True, kw_only=True)
class WorldSet:
    """What a dataset of worlds holds; the same options always give the same bytes.

    Attributes:
        train: Scenes to train on, with the objects of the `seen` split.
        test: Scenes of the same objects in other layouts, sizes and paints.
        novel: Scenes of the objects that no training scene has; one may stand there twice.
        dev: Scenes like `test` for every choice of a setting, so that `test` and `novel` stay
            untouched by choices.
        num_views: Views of each scene.
        hw: Height and width of the views, pixels.
        depth_noise: Disturb depth as a structured-light sensor does.
        scale_jitter: Sizes are drawn from [1 - jitter, 1 + jitter] times the usual one.
        seed: Moves the seeds of all scenes: another dataset of the same kind.
    """

    train: int = 40
    test: int = 10
    novel: int = 10
    dev: int = 0
    num_views: int = 8
    hw: tuple[int, int] = (480, 640)
    depth_noise: bool = True
    scale_jitter: float = 0.15
    seed: int = 0

    def scenes(self) -> dict[str, WorldOptions]:
        """Name of every scene and the options of its world."""
        return {
            f"{split}-{index:03d}": self.options(split, index)
            for split in WORLD_SPLITS
            for index in range(getattr(self, split))
        }

    def options(self, split: WorldSplit, index: int) -> WorldOptions:
        """The world of one scene: number of objects and camera path are drawn by its seed."""
        seed = _FIRST_SEED[split] + index + 10_000 * self.seed
        random = np.random.default_rng((seed, 6))
        unseen = split == "novel"
        least, most = (_FEWEST_UNSEEN, _MOST_UNSEEN) if unseen else (_FEWEST_SEEN, _MOST_SEEN)
        return WorldOptions(
            seed=seed,
            objects=2 * UNSEEN_OBJECTS if unseen else SEEN_OBJECTS,
            num_objects=int(random.integers(least, most + 1)),
            num_views=self.num_views,
            hw=self.hw,
            path=PATHS[int(random.integers(len(PATHS)))],
            depth_noise=self.depth_noise,
            scale_jitter=self.scale_jitter,
            repaint=True,
        )


def make_worlds(
    out: Path, options: WorldSet, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Make a dataset of worlds.

    Scenes that are there already are kept, so an interrupted call is simply repeated, and a larger
    dataset grows out of a smaller one. `worlds.json` says which scene belongs to which split.

    Args:
        out: The folder to make; holds one folder for each scene.
        options: How many scenes, and what they are made of.
        progress: Called with (scenes made, scenes in all).

    Returns:
        The scenes, in the order of `options.scenes()`.

    Raises:
        UsageError: If a number is impossible, or a scene of other options lies there.
        BackendError: If MuJoCo or OpenGL is missing.
        DataError: If a folder cannot be written.
    """
    _check(options)
    scenes = options.scenes()
    paths: list[Path] = []
    for name, world in scenes.items():
        paths.append(make_world(out / name, world))
        if progress is not None:
            progress(len(paths), len(scenes))
    splits = {s: [n for n in scenes if n.startswith(f"{s}-")] for s in WORLD_SPLITS}
    known = _splits_in(out)
    merged = {s: sorted({*known.get(s, []), *names}) for s, names in splits.items()}
    write_json(out / "worlds.json", {"options": asdict(options), "splits": merged})
    return paths


def _check(options: WorldSet) -> None:
    for split in WORLD_SPLITS:
        count = getattr(options, split)
        if not 0 <= count <= _MOST:
            raise UsageError(
                f"number of {split} scenes",
                wanted=f"0 to {_MOST}",
                got=str(count),
                fix=f"choose another number with --{split}",
            )
    if options.seed < 0:
        raise UsageError(
            "seed of the worlds", wanted="0 or more", got=str(options.seed), fix="--seed 0"
        )
    if not options.scenes():
        raise UsageError(
            "dataset of worlds",
            wanted="at least one scene",
            got="none in any split",
            fix="ask for some, for example --train 40 --test 10 --novel 10",
        )


def _splits_in(out: Path) -> dict[str, list[str]]:
    """The splits of an earlier call on the same folder."""
    file = out / "worlds.json"
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            str(file),
            wanted="the splits of a dataset of worlds",
            got=str(error) or "no splits",
            fix="delete the file and make the worlds again; whole scenes are kept",
        ) from error
