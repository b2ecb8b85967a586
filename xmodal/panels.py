"""Pictures side by side on one sheet, with words: heads, labels, captions and a colour bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xmodal.atomic import atomic_path
from xmodal.errors import UsageError
from xmodal.render import UNSEEN_GREY, FloatImage, heat

if TYPE_CHECKING:
    from PIL import ImageFont
    from PIL.Image import Image as PilImage

RgbImage = npt.NDArray[np.uint8]

_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_GAP_PX, _MARGIN_PX = 10, 14
# Sheets are shown at a half to two thirds of their size, on pages and in files of the web.
_FONT_PX, _TITLE_PX = 20, 23
_BAR_HW = (18, 320)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture `[H, W, 3]` of 0 to 255, and words below it."""

    picture: RgbImage
    caption: str = ""

    def __post_init__(self) -> None:
        shape = self.picture.shape
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or self.picture.dtype != np.uint8:
            raise ValueError(
                f"a panel needs a picture [H, W, 3] of bytes, got {list(shape)} of "
                f"{self.picture.dtype}"
            )


@dataclass(frozen=True, kw_only=True)
class ColourBar:
    """What the colours of `heat` mean, in words, and whether grey is among them."""

    low: str
    high: str
    unseen: str = ""


def sheet(
    rows: Sequence[Sequence[Panel]],
    *,
    heads: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    bar: ColourBar | None = None,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
    width_px: int = 260,
) -> RgbImage:
    """Lay panels out in rows and columns on white; words are broken into lines that fit.

    Args:
        rows: Of the same number of panels each; pictures of a row should have the same shape.
        heads: Above the columns.
        labels: Left of the rows, upright.
        title: Above everything.
        bar: Below everything.
        legend: Below that, what plain colours mean.
        width_px: Width of every picture; heights follow from their shapes.

    Raises:
        ValueError: If there is no panel, rows are of different lengths, or heads or labels are
            not one for each column or row.
    """
    _check(rows, heads, labels)
    pictures = [[_scaled(panel.picture, width_px) for panel in row] for row in rows]
    font, large = _font(_FONT_PX), _font(_TITLE_PX)
    line = _line_px(font)
    left = _MARGIN_PX + (_label_px(labels, pictures, font) if any(labels) else 0)
    step = width_px + _GAP_PX
    width = max(left + step * len(rows[0]) - _GAP_PX + _MARGIN_PX, _bar_width(bar, font))
    place = _Canvas(width)
    if title:
        place.words(title, large, _MARGIN_PX, width - 2 * _MARGIN_PX)
        place.down += _GAP_PX
    standing = [(text, left + step * i) for i, text in enumerate(heads)]
    place.line_of(standing, font, width_px, hang=False)
    for number, (row, images) in enumerate(zip(rows, pictures, strict=True)):
        height = max(image.height for image in images)
        if labels:
            place.upright(labels[number], font, _MARGIN_PX, height)
        place.images([(image, left + step * i) for i, image in enumerate(images)])
        captions = [(panel.caption, left + step * i) for i, panel in enumerate(row)]
        place.line_of(captions, font, width_px)
        place.down += _GAP_PX
    if bar is not None:
        place.bar(bar, font, line)
    if legend:
        place.legend(legend, font, line)
    return place.finished()


def depth_picture(depth: FloatImage, unit: str = "m") -> tuple[RgbImage, str]:
    """Depth as colours, near is bright, and its range in words.

    Args:
        depth: z-depth; NaN where nothing is seen, which becomes grey.
        unit: What it is counted in.
    """
    seen = depth[np.isfinite(depth)]
    if not seen.size:
        return np.full((*depth.shape, 3), UNSEEN_GREY, dtype=np.uint8), "nothing seen"
    # A few splats at the far end of the world would leave one colour for everything else.
    near, far = (float(end) for end in np.quantile(seen, (0.01, 0.99)))
    share = np.clip((far - depth) / max(far - near, 1e-9), 0.0, 1.0)
    return heat(share.astype(np.float32), top=1.0), f"{near:.2g} (bright) to {far:.2g} {unit}"


def colour_picture(colours: FloatImage) -> RgbImage:
    """Colours `[H, W, 3]` in [0, 1] as bytes; a pixel with NaN is grey."""
    known = np.isfinite(colours).all(-1, keepdims=True)
    bytes_ = np.rint(255 * np.clip(np.nan_to_num(colours), 0.0, 1.0)).astype(np.uint8)
    return np.where(known, bytes_, np.uint8(UNSEEN_GREY))


def write_sheet(path: Path, picture: RgbImage) -> None:
    """Write a picture as PNG, JPEG or WebP, as the name says, atomically.

    Raises:
        UsageError: If the name says nothing of that.
    """
    from PIL import Image

    kind = check_ending(path)
    options: dict[str, Any] = {"optimize": True} if kind == "PNG" else {"quality": _QUALITY}
    if kind == "JPEG":
        # Thin letters lose their colour to the coarser grid of hues that JPEG has by itself.
        options["subsampling"] = 0
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format=kind, **options)


def check_ending(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        UsageError: If it is none of those that are written.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"picture {path}",
            wanted=f"a name ending in {', '.join(_FORMATS)}",
            got=path.suffix or "no ending",
            fix=f"for example {path.with_suffix('.png')}",
        )
    return kind


class _Canvas:
    """White paper that grows downwards; `down` is where the next thing goes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.down = _MARGIN_PX
        self._parts: list[tuple[PilImage, int, int]] = []

    def words(self, text: str, font: Any, x: int, width: int) -> None:
        """Lines of text; goes down by them."""
        self.line_of([(text, x)], font, width)

    def line_of(
        self, texts: Sequence[tuple[str, int]], font: Any, width: int, *, hang: bool = True
    ) -> None:
        """Texts beside each other; goes down by the highest. They hang, or stand on one line."""
        drawn = [(_text(_wrapped(t, font, width), font), x) for t, x in texts if t]
        highest = max((image.height for image, _ in drawn), default=-(_GAP_PX // 2))
        for image, x in drawn:
            self._parts.append((image, x, self.down + (0 if hang else highest - image.height)))
        self.down += highest + _GAP_PX // 2

    def upright(self, text: str, font: Any, x: int, height: int) -> None:
        """Text that reads from below to above, beside the next row; does not go down."""
        if text:
            image = _text(_wrapped(text, font, height), font).rotate(90, expand=True)
            self._parts.append((image, x, self.down + max(0, (height - image.height) // 2)))

    def images(self, images: Sequence[tuple[PilImage, int]]) -> None:
        """Pictures beside each other; goes down by the highest."""
        self._parts += [(image, x, self.down) for image, x in images]
        self.down += max(image.height for image, _ in images) + _GAP_PX // 2

    def bar(self, bar: ColourBar, font: Any, line: int) -> None:
        """A strip of the colours between its two words, in the middle."""
        from PIL import Image

        height, length = _BAR_HW
        strip = heat(np.linspace(0, 1, length, dtype=np.float32)[None].repeat(height, 0), top=1.0)
        parts = [_text(bar.low, font), Image.fromarray(strip), _text(bar.high, font)]
        if bar.unseen:
            patch = np.full((height, height, 3), UNSEEN_GREY, dtype=np.uint8)
            space = Image.new("RGB", (_GAP_PX, 1), _PAPER)
            parts += [space, Image.fromarray(patch), _text(bar.unseen, font)]
        x = max(0, (self.width - sum(p.width for p in parts) - _GAP_PX * (len(parts) - 1)) // 2)
        for part in parts:
            self._parts.append((part, x, self.down + (line - part.height) // 2))
            x += part.width + _GAP_PX
        self.down += line + _GAP_PX

    def legend(self, colours: Mapping[str, tuple[int, int, int]], font: Any, line: int) -> None:
        """A patch of each colour and its word, in as many lines as they need."""
        from PIL import Image

        side, x = _BAR_HW[0], _MARGIN_PX
        for name, colour in colours.items():
            word = _text(name, font)
            if x > _MARGIN_PX and x + side + _GAP_PX + word.width > self.width - _MARGIN_PX:
                x, self.down = _MARGIN_PX, self.down + line + _GAP_PX // 2
            patch = Image.new("RGB", (side, side), colour)
            self._parts.append((patch, x, self.down + (line - side) // 2))
            self._parts.append((word, x + side + _GAP_PX // 2, self.down))
            x += side + word.width + 3 * _GAP_PX
        self.down += line + _GAP_PX

    def finished(self) -> RgbImage:
        """The sheet."""
        from PIL import Image

        height = max([self.down, *(y + part.height for part, _, y in self._parts)])
        paper = Image.new("RGB", (self.width, height + _MARGIN_PX - _GAP_PX // 2), _PAPER)
        for part, x, y in self._parts:
            paper.paste(part, (x, y))
        return np.asarray(paper)


def _check(rows: Sequence[Sequence[Panel]], heads: Sequence[str], labels: Sequence[str]) -> None:
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"a sheet needs rows of the same number of panels, got {sorted(lengths)}")
    for name, given, wanted in (("heads", heads, len(rows[0])), ("labels", labels, len(rows))):
        if given and len(given) != wanted:
            raise ValueError(f"a sheet of {wanted} needs so many {name}, got {len(given)}")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _line_px(font: Any) -> int:
    """Height of one line, with room for what hangs below it."""
    ascent, descent = font.getmetrics()
    return int(ascent + descent)


def _text(text: str, font: Any) -> PilImage:
    """Dark letters on paper; every line is as high as any, so that neighbours align."""
    from PIL import Image, ImageDraw

    lines, line = text.split("\n"), _line_px(font)
    width = max(font.getlength(one) for one in lines)
    image = Image.new("RGB", (math.ceil(width) + 1, line * len(lines)), _PAPER)
    pen = ImageDraw.Draw(image)
    for number, one in enumerate(lines):
        pen.text((0, number * line), one, fill=_INK, font=font)
    return image


def _wrapped(text: str, font: Any, width: int) -> str:
    """The text in lines that are no wider; a single word that is wider is broken anywhere."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if font.getlength(joined) <= width:
            lines[-1:] = [joined]
            continue
        rest = word
        while rest:
            size = len(rest)
            while size > 1 and font.getlength(rest[:size]) > width:
                size -= 1
            lines.append(rest[:size])
            rest = rest[size:]
    return "\n".join(lines)


def _scaled(picture: RgbImage, width: int) -> PilImage:
    from PIL import Image

    h, w = picture.shape[:2]
    size = (width, max(1, round(h * width / w)))
    return Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)


def _label_px(labels: Sequence[str], pictures: Sequence[Sequence[PilImage]], font: Any) -> int:
    """How much room the labels need on the left."""
    heights = [max(image.height for image in row) for row in pictures]
    lines = [
        _text(_wrapped(label, font, height), font).height
        for label, height in zip(labels, heights, strict=True)
        if label
    ]
    return max(lines) + _GAP_PX // 2


def _bar_width(bar: ColourBar | None, font: Any) -> int:
    if bar is None:
        return 0
    words = sum(font.getlength(text) for text in (bar.low, bar.high, bar.unseen))
    return int(words) + _BAR_HW[0] + _BAR_HW[1] + 6 * _GAP_PX + 2 * _MARGIN_PX
