"""Settings that several lift ops share, checked without torch."""

from __future__ import annotations


def check_margin(margin_m: float, min_points: int) -> None:
    """Refuse settings that no op over views can have.

    Raises:
        ValueError: If the margin is not above 0 metres, or fewer than one point is asked for.
    """
    if not 0 < margin_m < float("inf"):
        raise ValueError(f"margin_m must be above 0 metres, not {margin_m}")
    if min_points < 1:
        raise ValueError(f"min_points must be 1 or more, not {min_points}")
