"""Ctrl-C and SIGTERM as a request to stop after the step at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Exit codes of a shell: 128 + signal number.
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignals:
    """While active, the first SIGINT or SIGTERM only sets `exit_code`; a second one acts at once.

    Outside the main thread nothing is caught, because Python delivers signals to that one only.

    Attributes:
        exit_code: None until a signal came, then 130 (SIGINT) or 143 (SIGTERM).
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take over the two signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _CODES:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = _CODES[signal.Signals(number)]
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
