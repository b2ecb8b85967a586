"""`xmodal edit`: keep, delete or recolour what a prompt finds in a run over splats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lifting.gaussians.splats import Splats
from xmodal.errors import UsageError
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.prompts import Prompt
from xmodal.runs.selections import describe_selections, needed_splats, select
from xmodal.splats.edits import Edited, delete_splats, extract_splats, recolour_splats
from xmodal.splats.files import write_dot_splat, write_splats
from xmodal.splats.query import SplatSelection

_EXAMPLE = 'xmodal edit RUN "soccer ball" --delete --out edited.ply'


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """An edit of a run's splats; exactly one of `keep`, `delete`, `colour` and `hue_deg` is named.

    Attributes:
        run: RUN folder, over splats.
        prompt: What is edited.
        out: File to write, .ply or .splat; the run itself is never changed.
        keep: Write what was selected alone.
        delete: Write the scene without it.
        colour: R,G,B from 0 to 255 that it is given; shading stays.
        hue_deg: Degrees that its hues are turned.
        source: Features to ask, as in a query.
        top: So many of the best selections are edited.
        threshold: Share of the highest relevancy from which splats are selected; the run's if None.
    """

    run: Path
    prompt: Prompt
    out: Path
    keep: bool = False
    delete: bool = False
    colour: str | None = None
    hue_deg: float | None = None
    source: str | None = None
    top: int = 1
    threshold: float | None = None

    def check(self) -> None:
        """Refuse what can be seen to be wrong without the run.

        Raises:
            UsageError: If there is not one edit and one prompt, a number is out of range, or the
                file's ending is unknown.
        """
        named = {
            "--keep": self.keep,
            "--delete": self.delete,
            "--colour": self.colour is not None,
            "--hue": self.hue_deg is not None,
        }
        given = [name for name, there in named.items() if there]
        if len(given) != 1:
            raise UsageError(
                "xmodal edit",
                wanted="one edit: --keep, --delete, --colour R,G,B or --hue DEG",
                got=" and ".join(given) or "none of them",
                fix=f"for example: {_EXAMPLE}",
            )
        self.prompt.check(_EXAMPLE)
        if self.colour is not None:
            parse_colour(self.colour)
        if self.hue_deg is not None and not math.isfinite(self.hue_deg):
            raise UsageError(
                "--hue", wanted="a number of degrees", got=str(self.hue_deg), fix="--hue 120"
            )
        if self.top < 1:
            raise UsageError("--top", wanted="1 or more", got=str(self.top), fix="leave it out")
        self._check_threshold()
        if self.out.suffix.lower() not in (".ply", ".splat"):
            raise UsageError(
                f"--out {self.out}",
                wanted="a file ending in .ply or .splat",
                got=self.out.suffix or "no ending",
                fix=f"--out {self.out.with_suffix('.ply')}",
            )

    def _check_threshold(self) -> None:
        if self.threshold is None:
            return
        if self.prompt.box is not None:
            raise UsageError(
                "--threshold",
                wanted="a query by text, click or picture, whose relevancy it cuts",
                got="a query by box",
                fix="leave --threshold out",
            )
        if not 0 < self.threshold <= 1:
            raise UsageError(
                "--threshold",
                wanted="a share above 0 and at most 1 of the highest relevancy",
                got=str(self.threshold),
                fix="leave it out for the run's own, or for example --threshold 0.8",
            )


def edit_run(request: EditRequest) -> str:
    """Edit the best selections of a run over splats, write the splats, return a short report.

    Raises:
        UsageError: If the request or the prompt is wrong, it is a run over points, nothing answers
            the prompt, or the file belongs to the run.
        DataError: If the run cannot be read or the file cannot be written.
    """
    request.check()
    opened = open_run(request.run)
    splats = needed_splats(opened, "xmodal edit")
    _refuse_own_file(opened, request.out)
    names = opened.pick(request.source)
    found = select(opened, request.prompt, names, top=request.top, threshold=request.threshold)
    if not found:
        raise UsageError(
            f"xmodal edit {request.prompt.label!r}",
            wanted="a prompt that something in the scene answers",
            got="nothing observed is relevant",
            fix="ask for something else; xmodal query shows what is found",
        )
    edited, done = _apply(request, splats, found)
    write = write_splats if request.out.suffix.lower() == ".ply" else write_dot_splat
    write(request.out, edited.splats)
    label = "ensemble" if len(names) > 1 else names[0]
    told = describe_selections(found, request.prompt.label, label)
    return f"{told}\n{done}\nwrote {request.out}: {len(edited.splats)} splats"


def parse_colour(text: str) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1] from R,G,B of 0 to 255.

    Raises:
        UsageError: If it is not of that form, or looks like a colour of 0 to 1.
    """
    parts = [part.strip() for part in text.split(",")]
    whole = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
    numbers = [int(part) for part in parts] if whole else []
    # 1,0,0 is meant as red and would be black.
    if not whole or max(numbers) > 255 or max(numbers) == 1:
        raise UsageError(
            "--colour",
            wanted="R,G,B: three whole numbers from 0 to 255",
            got=text,
            fix="for example: --colour 30,110,230",
        )
    red, green, blue = (number / 255 for number in numbers)
    return red, green, blue


def _apply(request: EditRequest, splats: Splats, found: list[SplatSelection]) -> tuple[Edited, str]:
    """The edited splats, and what was done."""
    ids = torch.unique(torch.cat([one.ids for one in found]))
    count = f"{len(ids)} of {len(splats)} splats"
    if request.keep:
        return extract_splats(splats, ids), f"kept {count}"
    if request.delete:
        return delete_splats(splats, ids), f"deleted {count}"
    if request.colour is not None:
        edited = recolour_splats(splats, ids, colour=parse_colour(request.colour))
        return edited, f"gave {count} the colour {request.colour}"
    degrees = request.hue_deg or 0.0
    edited = recolour_splats(splats, ids, hue_rad=math.radians(degrees))
    return edited, f"turned the hues of {count} by {degrees:g} degrees"


def _refuse_own_file(opened: OpenedRun, out: Path) -> None:
    """Features follow the order of the run's own splats: an edit of them in place ends the run."""
    own = {(opened.run.path / name).resolve() for name in opened.run.manifest()["files"]}
    if out.resolve() in own:
        raise UsageError(
            f"--out {out}",
            wanted="a new file",
            got="a file of the run itself",
            fix=f"--out edited{out.suffix}",
        )
