"""Localisation: does the pixel of highest relevancy lie on the thing that was asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Whether the pixel of highest relevancy lies where it should.

    Attributes:
        plain: It is inside one of the query's boxes.
        strict: And not inside a smaller box of another labelled object.
    """

    plain: bool
    strict: bool


def localise(
    peak: tuple[float, float] | None, text: str, boxes: Mapping[str, Sequence[Box]]
) -> Hit:
    """Judge one frame-query pair.

    Args:
        peak: Pixel (u, v) of highest relevancy, None when nothing was observed.
        text: The query.
        boxes: Boxes x0, y0, x1, y1 of every labelled text of the frame, pixels.

    Source:
        Kerr et al., LERF, ICCV 2023, section 4.2 (localisation accuracy).
    """
    if peak is None:
        return Hit(plain=False, strict=False)
    inside = [_area(box) for box in boxes[text] if _contains(box, peak)]
    if not inside:
        return Hit(plain=False, strict=False)
    covered = any(
        _contains(box, peak) and _area(box) < min(inside)
        for other, others in boxes.items()
        if other != text
        for box in others
    )
    return Hit(plain=True, strict=not covered)


def _contains(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
