"""Pictures of the pages: each is drawn by a command, shown with words, and quick to load."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.pictures import REAL, SHOWN, WORLD, coarse
from tests.docs.test_code_blocks import PAGES, ROOT

SHOWN_IN = re.compile(r"!\[(.*?)\]\((\S+?)\)")


@pytest.mark.parametrize("name", WORLD)
def test_every_drawn_picture_is_there_small_and_shown_with_words(name: str) -> None:
    path = SHOWN / f"{name}.png"
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.width <= 1400
        assert np.asarray(picture.convert("RGB"))[0].min() == 255
    words = [
        alt
        for page in PAGES
        for alt, link in SHOWN_IN.findall(page.read_text())
        if (page.parent / link).resolve() == path.resolve()
    ]
    assert words and all(len(alt) > 10 for alt in words)


def test_pictures_of_real_scenes_are_named_and_not_kept() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text()
    assert all(f"`{name}`" in page for name in REAL)
    assert not [name for name in REAL if list(ROOT.glob(f"docs/**/{name}.*"))]
    assert sum(path.stat().st_size for path in SHOWN.iterdir()) < 2_000_000


def test_coarse_colours_are_near_and_paper_stays_white() -> None:
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    near = coarse(picture)
    assert np.abs(near.astype(int) - picture).max() <= 2
    assert near.max() == 255 and len(np.unique(near)) <= 66


def test_every_picture_of_a_page_exists() -> None:
    missing: list[Path] = []
    for page in PAGES:
        for _, link in SHOWN_IN.findall(page.read_text()):
            if "://" not in link and not (page.parent / link).is_file():
                missing.append(page.parent / link)
    assert not missing
