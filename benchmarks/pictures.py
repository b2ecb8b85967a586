"""`python -m benchmarks.pictures`: the pictures of the documentation, drawn anew.

Those of the generated world lie in `docs/assets`. Those of real scenes need `$XMODAL_DATA` and
stay in the work folder: photos of data sets are not ours to pass on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lifting.gaussians.splats import Splats
from xmodal.cli.progress import progress
from xmodal.errors import DataError, XmodalError
from xmodal.panels import RgbImage, write_sheet
from xmodal.runs.edit import EditRequest, edit_run
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.prompts import Prompt
from xmodal.runs.sheets import edits_sheet, features_sheet, query_sheet
from xmodal.splats.files import read_splats

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ROOT / "docs" / "assets"
_WORK = Path("data/results-cache/pictures")
_WORLD_STEPS = 300
_STEP = 4
_FOX_SPLATS, _FOX_STEPS = 10_000, 2000
_FOX_BOX = "0012,110,20,410,440"
_FOX, _KITCHEN = "fox_half", "7scenes_redkitchen"


@dataclass(frozen=True)
class Studio:
    """Scenes and runs that pictures are drawn from; each is made when it is first asked for.

    Attributes:
        work: Keeps them from one call to the next.
    """

    work: Path

    @cached_property
    def world(self) -> Path:
        """The table of `xmodal demo`."""
        from xmodal.world import WorldOptions, make_world

        with progress("world") as told:
            return make_world(self.work / "world", WorldOptions(seed=0, num_views=16), told)

    def real(self, name: str) -> Path:
        """A folder of `$XMODAL_DATA`.

        Raises:
            DataError: If it is not there.
        """
        root = os.environ.get("XMODAL_DATA")
        folder = Path(root or "") / name
        if root is None or not folder.is_dir():
            raise DataError(
                "XMODAL_DATA",
                wanted=f"a folder that holds {name}",
                got=root or "the variable is not set",
                fix="export XMODAL_DATA=/path/to/data; see data/README.md",
            )
        return folder

    def run(self, name: str, scene: Path, teacher: str, **fit: int) -> OpenedRun:
        """A scene lifted to splats, or without a fit's numbers to points."""
        request = LiftRequest(
            source=scene,
            out=self.work / name,
            teacher=teacher,
            to="gaussians" if fit else "points",
            overwrite=True,
            splats=fit.get("splats"),
            steps=fit.get("steps"),
        )
        lift_run(request, progress)
        return open_run(self.work / name)

    def edited(
        self, opened: OpenedRun, prompt: Prompt, threshold: float | None = None, **edit: Any
    ) -> tuple[str, str, Splats]:
        """One edit by way of `xmodal edit`: what was asked for, what was done, and the splats."""
        request = EditRequest(
            run=opened.run.path,
            prompt=prompt,
            out=self.work / "edited.ply",
            threshold=threshold,
            **edit,
        )
        print(edit_run(request))
        asked = "--click" if prompt.click else "--box" if prompt.box else f'"{prompt.text}"'
        ((name, value),) = edit.items()
        amount = "" if value is True else f" {value}"
        return asked, f"--{name.removesuffix('_deg')}{amount}", read_splats(request.out)


def world_features(studio: Studio) -> RgbImage:
    """Photo, splats and features of the generated world."""
    opened = studio.run("world_dino", studio.world, "dino", steps=_WORLD_STEPS)
    return features_sheet(opened, ("000003", "000010"), teacher=True, width_px=240)


def world_queries(studio: Studio) -> RgbImage:
    """Relevancy of points and of splats in the generated world."""
    runs = {
        "lifted to points": studio.run("world_points", studio.world, "embedded"),
        "lifted to splats": studio.run(
            "world_splats", studio.world, "embedded", steps=_WORLD_STEPS
        ),
    }
    asked = [("soccer ball", "000003"), ("pineapple", "000010"), ("wine bottle", "000012")]
    return query_sheet(runs, asked, width_px=280)


def world_edits(studio: Studio) -> RgbImage:
    """A thing alone, away, and in other colours, in the generated world."""
    opened = studio.run("world_splats", studio.world, "embedded", steps=_WORLD_STEPS)
    edits = [
        studio.edited(opened, Prompt(text="soccer ball"), 0.2, keep=True),
        studio.edited(opened, Prompt(text="bucket"), 0.2, delete=True),
        studio.edited(opened, Prompt(text="bucket"), 0.2, hue_deg=240),
        studio.edited(opened, Prompt(text="teapot"), 0.2, colour="200,40,40"),
    ]
    return edits_sheet(opened, "000003", edits, width_px=240)


def fox_features(studio: Studio) -> RgbImage:
    """Two views that the fit of the fox never saw."""
    return features_sheet(_fox(studio), ("0012", "0027"), teacher=True)


def fox_edits(studio: Studio) -> RgbImage:
    """The fox alone, away, and with another face."""
    opened = _fox(studio)
    edits = [
        studio.edited(opened, Prompt(box=_FOX_BOX), keep=True),
        studio.edited(opened, Prompt(box=_FOX_BOX), delete=True),
        studio.edited(opened, Prompt(text="red fox"), 0.8, hue_deg=120),
    ]
    return edits_sheet(opened, "0012", edits)


def kitchen_features(studio: Studio) -> RgbImage:
    """Splats of a real room, without any fit, and its features."""
    opened = studio.run("kitchen_dino", studio.real(_KITCHEN), "dino", steps=0)
    return features_sheet(opened, ("000208", "000800"), teacher=True)


def kitchen_queries(studio: Studio) -> RgbImage:
    """Relevancy of points and of splats in a real room."""
    room = studio.real(_KITCHEN)
    runs = {
        "lifted to points": studio.run("kitchen_points", room, "embedded"),
        "lifted to splats": studio.run("kitchen_splats", room, "embedded", steps=0),
    }
    asked = [("coffee mug", "000800"), ("chair", "000128"), ("magazine", "000512")]
    return query_sheet(runs, asked, width_px=320)


def rooms_heard(studio: Studio) -> RgbImage:
    """Maps of rooms that nobody trained on, as they are, as networks see and hear them.

    Raises:
        DataError: If the table `rooms` was not made here.
    """
    from benchmarks.tables.recorded import run_folder
    from benchmarks.tables.rooms import matched
    from xmodal.runs.recorded.judged import open_recorded
    from xmodal.runs.recorded.sheet import maps_sheet

    work = studio.work.parent
    run = run_folder(work, matched(work))
    if not run.is_dir():
        raise DataError(
            str(run),
            wanted="the first run of the table `rooms`",
            got="no such folder",
            fix="make results TABLE=rooms",
        )
    # With a bed, and with a column.
    return maps_sheet(open_recorded(run), ("test-0001_0", "test-0002_0"))


# Name -> who draws it.
WORLD: Mapping[str, Callable[[Studio], RgbImage]] = {
    "world_features": world_features,
    "world_queries": world_queries,
    "world_edits": world_edits,
}
# Of what the project makes itself, too, but only after a table of results.
TABLES: Mapping[str, Callable[[Studio], RgbImage]] = {"rooms_heard": rooms_heard}
REAL: Mapping[str, Callable[[Studio], RgbImage]] = {
    "fox_features": fox_features,
    "fox_edits": fox_edits,
    "kitchen_features": kitchen_features,
    "kitchen_queries": kitchen_queries,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures that are asked for, those of the documentation if none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures")
    names = [*WORLD, *TABLES, *REAL]
    parser.add_argument("--only", action="append", choices=names, help="one of them; repeatable")
    parser.add_argument("--work", type=Path, default=_WORK, help="scenes, runs, real pictures")
    parser.add_argument("--out", type=Path, default=SHOWN, help="pictures of the generated world")
    options = parser.parse_args(argv)
    studio = Studio(options.work.resolve())
    try:
        for name in options.only or WORLD:
            folder = studio.work if name in REAL else options.out
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.png"
            write_sheet(path, coarse((WORLD | TABLES | REAL)[name](studio)))
            print(f"wrote {path}", flush=True)
    except XmodalError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def coarse(picture: RgbImage) -> RgbImage:
    """The picture in steps of four of 255, which no eye sees and PNG packs half again as small."""
    steps = np.rint(picture / np.float32(_STEP)) * _STEP
    return np.where(picture == 255, 255, steps.clip(0, 255)).astype(np.uint8)


def _fox(studio: Studio) -> OpenedRun:
    return studio.run(
        "fox", studio.real(_FOX), "imagenet_dense", splats=_FOX_SPLATS, steps=_FOX_STEPS
    )


if __name__ == "__main__":
    raise SystemExit(main())
