"""`xmodal doctor`."""

from __future__ import annotations


def doctor() -> None:
    """Say what is installed, which backends are used, and the line that mends what is missing.

    For example:

        xmodal doctor

        xmodal doctor --debug
    """
    from xmodal.doctor import report

    print(report())
