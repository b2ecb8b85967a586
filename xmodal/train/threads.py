"""How many threads torch may use for one operation."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(num: int) -> Generator[None]:
    """Let each torch operation use `num` threads inside the block, as before afterwards.

    Args:
        num: Number of threads; 0 leaves the setting alone.
    """
    before = torch.get_num_threads()
    if num > 0:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
