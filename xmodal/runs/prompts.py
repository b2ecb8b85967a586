"""What the command line asks of a RUN: a text, a clicked pixel, a box in a frame or a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lifting.cameras import Camera
from xmodal.errors import UsageError
from xmodal.images import read_rgb
from xmodal.query import check_text
from xmodal.runs.opened import OpenedRun
from xmodal.values import Image


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is looked for: exactly one of a text, a clicked pixel, a box or a picture.

    Attributes:
        text: Words.
        click: FRAME,U,V in pixels of the colour image.
        box: FRAME,U0,V0,U1,V1: left, top, right, bottom in pixels of the colour image.
        image: A file.
        negatives: Texts to tell a text from.
    """

    text: str | None = None
    click: str | None = None
    box: str | None = None
    image: Path | None = None
    negatives: tuple[str, ...] = ()

    def check(self, example: str = 'xmodal query RUN "coffee mug"') -> None:
        """Refuse no prompt, several, or negatives that would have no effect.

        Args:
            example: A command that works, for the message.

        Raises:
            UsageError: In these cases.
        """
        given = [n for n in ("text", "click", "box", "image") if getattr(self, n) is not None]
        if len(given) != 1:
            raise UsageError(
                " ".join(example.split()[:2]),
                wanted="one of: a text, --click FRAME,U,V, --box FRAME,U0,V0,U1,V1, --image FILE",
                got=" and ".join(given) or "none of them",
                fix=f"for example: {example}",
            )
        if self.negatives and self.text is None:
            raise UsageError(
                "--negative",
                wanted="a text query to tell apart from the negatives",
                got=f"a query by {given[0]}",
                fix="leave --negative out, or ask by text",
            )
        if self.text is not None:
            check_text(self.text)
        if self.click is not None:
            parse_click(self.click)
        if self.box is not None:
            parse_box(self.box)

    @property
    def label(self) -> str:
        """What messages and files call the query."""
        return self.text or self.click or self.box or str(self.image)


@dataclass(frozen=True, kw_only=True)
class QueryOutputs:
    """Files to write, and how much to report."""

    ply: Path | None = None
    png: Path | None = None
    json: Path | None = None
    scores: Path | None = None
    frame: str | None = None
    top: int = 10


def parse_click(text: str) -> tuple[str, float, float]:
    """Split FRAME,U,V.

    Raises:
        UsageError: If it is not of that form.
    """
    frame, *numbers = text.rsplit(",", 2)
    try:
        u, v = (float(number) for number in numbers)
    except ValueError:
        raise UsageError(
            "--click",
            wanted="FRAME,U,V with a pixel of the colour image",
            got=text,
            fix="for example: --click 000000,380,185",
        ) from None
    return frame, u, v


def parse_box(text: str) -> tuple[str, tuple[float, float, float, float]]:
    """Split FRAME,U0,V0,U1,V1 into the frame and left, top, right, bottom.

    Raises:
        UsageError: If it is not of that form, or the box has no area.
    """
    frame, *numbers = text.rsplit(",", 4)
    try:
        left, top, right, bottom = (float(number) for number in numbers)
    except ValueError:
        left = top = right = bottom = math.nan
    # A comparison with NaN is false, so this refuses it, too.
    finite = all(math.isfinite(number) for number in (left, top, right, bottom))
    if not (finite and left < right and top < bottom):
        raise UsageError(
            "--box",
            wanted="FRAME,U0,V0,U1,V1: left, top, right, bottom of a box in the colour image",
            got=text,
            fix="for example: --box 000000,320,150,420,230",
        )
    return frame, (left, top, right, bottom)


def picture(path: Path) -> Image:
    """A picture file as a view of nothing in particular.

    Raises:
        DataError: If it cannot be read.
    """
    rgb = torch.from_numpy(read_rgb(path)).permute(2, 0, 1).float() / 255
    camera = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=(rgb.shape[1], rgb.shape[2]))
    return Image(rgb=rgb, camera=camera, name=str(path))


def frame_index(opened: OpenedRun, frame: str) -> int:
    """Position of a frame in the run's scene.

    Raises:
        UsageError: If the run does not have it.
    """
    names = [opened.scene.images[i].name for i in range(len(opened.scene.images))]
    if frame not in names:
        raise UsageError(
            f"frame {frame}",
            wanted=f"one of the run's {len(names)} frames",
            got=frame,
            fix=f"for example {names[0]}",
        )
    return names.index(frame)
