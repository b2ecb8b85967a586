"""Queries of splats: every prompt, groups, floaters, masks, codes, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from tests.splats.splat_scene import (
    FLOATER,
    HAZE,
    HIDDEN,
    LAMP,
    MUG,
    NUM,
    UNSEEN,
    WALL,
    DirectionTeacher,
    ShareTeacher,
    camera,
    features,
    scene,
    words,
)
from xmodal.errors import UsageError
from xmodal.splats.prompts import (
    BoxPrompt,
    ImageBoxPrompt,
    ImagePrompt,
    PixelPrompt,
    PointPrompt,
    SplatPrompt,
    TextPrompt,
)
from xmodal.splats.query import (
    SelectOptions,
    SplatSelection,
    query_splats,
    score_image,
    select_splats,
    selection_mask,
)
from xmodal.store import Codec, Features
from xmodal.values import Image

Check = Callable[[BaseException, int], None]
MUG_BALL = set(range(40))
TEACHER = DirectionTeacher()


@pytest.fixture(scope="module")
def splats() -> Splats:
    return scene()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("splats"))


def ask(splats: Splats, stored: Features, prompt: SplatPrompt, **how: float) -> list[set[int]]:
    options = SelectOptions(**how)
    found = query_splats(splats, stored, prompt, teacher=TEACHER, options=options)
    return [set(one.ids.tolist()) for one in found]


# ---- prompts -----------------------------------------------------------------------------------


def test_a_text_finds_the_thing_and_not_the_floater(splats: Splats, stored: Features) -> None:
    found = ask(splats, stored, TextPrompt(text="mug", negatives=("wall", "lamp")))
    assert found[0] == MUG_BALL | {HIDDEN}
    assert FLOATER not in set().union(*found) and HAZE not in set().union(*found)


def test_things_apart_are_selections_of_their_own(splats: Splats, stored: Features) -> None:
    both = np.asarray(stored.rows).copy()
    both[LAMP] = both[MUG][:30]
    found = select_splats(splats, torch.from_numpy(both @ words(["mug"])[0].numpy()))
    assert {frozenset(one.ids.tolist()) for one in found} == {
        frozenset(MUG_BALL | {HIDDEN}),
        frozenset(range(40, 70)),
    }
    assert found[0].score >= found[1].score


def test_a_picture_finds_what_it_shows(splats: Splats, stored: Features) -> None:
    shown = Image(rgb=torch.zeros(3, 80, 120), camera=camera(), name="lamp")
    assert ask(splats, stored, ImagePrompt(image=shown)) == [set(range(40, 70))]


def test_a_click_finds_the_thing_under_it(splats: Splats, stored: Features) -> None:
    prompt = PixelPrompt(camera=camera(), uv=(40.5, 40.5))
    assert ask(splats, stored, prompt) == [MUG_BALL | {HIDDEN}]
    prompt = PixelPrompt(camera=camera(), uv=(60.5, 10.5))
    assert ask(splats, stored, prompt) == [set(range(70, 106))]


def test_a_click_means_one_thing_of_several_alike(splats: Splats, tmp_path: Path) -> None:
    kinds = np.zeros(NUM, np.int64)
    kinds[WALL] = 1
    stored = features(tmp_path, rows=words(["mug", "wall"]).numpy()[kinds])
    click = PixelPrompt(camera=camera(), uv=(80.5, 40.5))
    assert ask(splats, stored, click, threshold=0.9) == [set(range(40, 70))]


def test_a_point_finds_the_thing_it_lies_on(splats: Splats, stored: Features) -> None:
    assert ask(splats, stored, PointPrompt(xyz_m=(-0.99, 0.0, 3.7))) == [MUG_BALL | {HIDDEN}]
    assert ask(splats, stored, PointPrompt(xyz_m=(0.5, 0.5, 6.0))) == [set(range(70, 106))]


def test_a_floater_that_was_hit_stands_for_itself(splats: Splats, stored: Features) -> None:
    assert ask(splats, stored, PointPrompt(xyz_m=(3.0, 3.0, 2.0))) == [{FLOATER}]


def test_a_box_in_an_image_takes_what_is_seen_inside(splats: Splats, stored: Features) -> None:
    """The lamp in front comes before the wall behind; what no pixel shows is not taken."""
    best = query_splats(
        splats, stored, ImageBoxPrompt(camera=camera(), box_px=(70.0, 30.0, 90.0, 50.0))
    )
    ids = set(best[0].ids.tolist())
    assert ids <= set(range(40, 70)) and len(ids) >= 15
    weights = view_operator(splats, camera()).to_dense()
    assert float(weights[:, best[0].ids].sum(0).min()) > 0
    assert 0.3 < best[0].score <= 1
    mug = ask(splats, stored, ImageBoxPrompt(camera=camera(), box_px=(25.0, 25.0, 55.0, 55.0)))
    assert not {UNSEEN, HAZE} & set().union(*mug)


def test_the_share_inside_a_box_by_hand(splats: Splats, stored: Features) -> None:
    """The left half of the image: each selected splat has most of its light there."""
    half = ImageBoxPrompt(camera=camera(), box_px=(0.0, 0.0, 60.0, 80.0))
    weights = view_operator(splats, camera()).to_dense().reshape(80, 120, NUM)
    share = weights[:, :60].sum((0, 1)) / weights.sum((0, 1)).clamp_min(1e-9)
    for one in query_splats(splats, stored, half):
        torch.testing.assert_close(one.scores, share[one.ids], atol=1e-5, rtol=0)
        assert float(one.scores.min()) >= 0.5


def test_a_box_in_the_world_takes_what_is_mostly_inside(splats: Splats, stored: Features) -> None:
    T = torch.eye(4)
    T[:3, 3] = torch.tensor([-1.0, 0, 4])
    prompt = BoxPrompt(T_world_box=T, size_m=(0.8, 0.8, 0.8))
    found = query_splats(splats, stored, prompt)
    assert set(found[0].ids.tolist()) == MUG_BALL and found[0].score > 0.9
    # A box whose face goes through the centre of a round splat holds half of it.
    T[:3, 3] = splats.means[HIDDEN] - torch.tensor([0, 0, 0.5])
    found = query_splats(splats, stored, BoxPrompt(T_world_box=T, size_m=(9.0, 9.0, 1.0)))
    scores = dict(zip(found[0].ids.tolist(), found[0].scores.tolist(), strict=True))
    assert scores.get(HIDDEN, 0.5) == pytest.approx(0.5, abs=1e-4)


def test_what_was_not_observed_is_never_selected(splats: Splats, stored: Features) -> None:
    everything = BoxPrompt(T_world_box=torch.eye(4), size_m=(99.0, 99.0, 99.0))
    prompts: list[SplatPrompt] = [
        TextPrompt(text="mug"),
        everything,
        ImageBoxPrompt(camera=camera(), box_px=(0.0, 0.0, 120.0, 80.0)),
        PixelPrompt(camera=camera(), uv=(40.5, 40.5)),
    ]
    for prompt in prompts:
        found = ask(splats, stored, prompt, threshold=1e-6, solid_opacity=0.0)
        assert found and UNSEEN not in set().union(*found)


# ---- codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["bf16", "int8", "pq64", "components", "segments"])
@pytest.mark.parametrize("teacher", [DirectionTeacher(), ShareTeacher()])
def test_codes_answer_like_rows(
    splats: Splats, tmp_path: Path, codec: Codec, teacher: DirectionTeacher
) -> None:
    kinds = np.r_[np.zeros(40), np.ones(30), np.full(36, 2), np.zeros(4)].astype(np.int32)
    coded = features(tmp_path, codec, segments=kinds)
    prompts: list[SplatPrompt] = [
        TextPrompt(text="lamp"),
        PixelPrompt(camera=camera(), uv=(80.5, 40.5)),
    ]
    for prompt in prompts:
        found = query_splats(splats, coded, prompt, teacher=teacher)
        assert set(found[0].ids.tolist()) == set(range(40, 70))


# ---- what a selection says ---------------------------------------------------------------------


def mug(splats: Splats, stored: Features) -> SplatSelection:
    return query_splats(splats, stored, TextPrompt(text="mug"), teacher=TEACHER)[0]


def test_scores_and_the_box_of_a_selection(splats: Splats, stored: Features) -> None:
    found = mug(splats, stored)
    assert found.ids.tolist() == sorted(found.ids.tolist())
    assert len(found.scores) == len(found.ids)
    best = found.scores.sort().values[-(len(found.ids) // 10) :]
    assert found.score == pytest.approx(float(best.mean()), abs=1e-6)
    assert found.confidence == found.score
    wanted = torch.tensor([-1.0, 0, 4])
    torch.testing.assert_close(found.box.centre_m[:2], wanted[:2], atol=0.02, rtol=0)
    # Radius 0.3 and one deviation of 0.06 on each side.
    torch.testing.assert_close(found.box.size_m[:2], torch.full((2,), 0.72), atol=0.03, rtol=0)


def test_views_that_disagreed_lower_the_confidence(splats: Splats, tmp_path: Path) -> None:
    doubtful = features(tmp_path, disagreement=np.full(NUM, 0.25, np.float32))
    found = mug(splats, doubtful)
    assert found.confidence == pytest.approx(0.75 * found.score)


def test_the_mask_shows_the_thing_where_it_is_seen(splats: Splats, stored: Features) -> None:
    found = mug(splats, stored)
    mask = selection_mask(found, splats, camera())
    v, u = mask.nonzero().double().mean(0).tolist()
    assert (u + 0.5, v + 0.5) == (pytest.approx(40, abs=1), pytest.approx(40, abs=1))
    # A disc of radius 0.3 m at 4 m is 6 px wide; splats reach a little beyond.
    assert math.pi * 6**2 < int(mask.sum()) < math.pi * 9**2
    weights = view_operator(splats, camera()).to_dense()[:, found.ids].sum(1)
    assert torch.equal(mask.reshape(-1), weights >= 0.5)
    tight = selection_mask(found, splats, camera(), share=0.9)
    assert not bool((tight & ~mask).any())


def test_a_hidden_selection_has_no_mask(splats: Splats, stored: Features) -> None:
    hidden = replace(mug(splats, stored), ids=torch.tensor([HIDDEN]), scores=torch.ones(1))
    assert not bool(selection_mask(hidden, splats, camera()).any())


def test_scores_as_an_image(splats: Splats) -> None:
    scores = torch.zeros(NUM)
    scores[MUG] = 1.0
    scores[UNSEEN] = torch.nan
    image = score_image(splats, scores, camera())
    assert float(image[40, 40]) > 0.9 and float(image[40, 80]) < 0.1
    assert bool(image[~image.isnan()].isfinite().all())
    unknown = score_image(splats, torch.full((NUM,), torch.nan), camera())
    assert bool(unknown.isnan().all())


def test_an_upright_box(splats: Splats, stored: Features) -> None:
    options = SelectOptions(up=(0.0, -1.0, 0.0))
    found = query_splats(splats, stored, TextPrompt(text="wall"), teacher=TEACHER, options=options)[
        0
    ]
    assert float(found.box.size_m.amin()) < 0.1
    torch.testing.assert_close(found.box.T_world_box[:3, 2], torch.tensor([0.0, -1, 0]))


def test_top_and_threshold(splats: Splats) -> None:
    scores = torch.full((NUM,), 0.1)
    scores[MUG], scores[LAMP] = 0.9, 0.5
    assert len(select_splats(splats, scores)) == 2
    assert len(select_splats(splats, scores, options=SelectOptions(threshold=0.8))) == 1
    assert len(select_splats(splats, scores, options=SelectOptions(top=1))) == 1


def test_a_stray_splat_is_no_thing_beside_a_real_one(splats: Splats) -> None:
    scores = torch.zeros(NUM)
    scores[MUG] = 1.0
    scores[60] = 1.0
    assert [len(one.ids) for one in select_splats(splats, scores)] == [40]
    scores[MUG] = 0.0
    assert [one.ids.tolist() for one in select_splats(splats, scores)] == [[60]]


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_nothing_relevant_is_no_selection(splats: Splats, value: float) -> None:
    assert select_splats(splats, torch.full((NUM,), value)) == []


def test_relevant_floaters_alone_are_no_selection(splats: Splats) -> None:
    scores = torch.zeros(NUM)
    scores[FLOATER] = 1.0
    assert select_splats(splats, scores) == []


# ---- refusals ----------------------------------------------------------------------------------


def lens() -> object:
    return replace(camera(), distortion=torch.tensor([0.1, 0, 0, 0]))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (TextPrompt(text=" "), "empty text"),
        (TextPrompt(text="mug", negatives=("a\x00",)), "control characters"),
        (PixelPrompt(camera=camera(), uv=(120.0, 3.0)), "inside 120 x 80"),
        (PixelPrompt(camera=camera(), uv=(math.nan, 3.0)), "inside 120 x 80"),
        (PixelPrompt(camera=lens(), uv=(3.0, 3.0)), "lens"),
        (PointPrompt(xyz_m=(0.0, 0.0, -9.0)), "nearest splat is"),
        (PointPrompt(xyz_m=(math.nan, 0.0, 0.0)), "finite"),
        (ImageBoxPrompt(camera=camera(), box_px=(9.0, 9.0, 5.0, 5.0)), "without any pixel"),
        (ImageBoxPrompt(camera=camera(), box_px=(200.0, 9.0, 300.0, 15.0)), "without any pixel"),
        (ImageBoxPrompt(camera=lens(), box_px=(0.0, 0.0, 9.0, 9.0)), "lens"),
        (BoxPrompt(T_world_box=torch.eye(4), size_m=(1.0, 1.0, 1.0)), "empty one"),
        (BoxPrompt(T_world_box=torch.eye(4), size_m=(1.0, 0.0, 1.0)), "above 0"),
        (BoxPrompt(T_world_box=torch.eye(4) * math.nan, size_m=(1.0, 1.0, 1.0)), "finite pose"),
    ],
)
def test_prompts_that_mean_nothing(
    splats: Splats, stored: Features, prompt: SplatPrompt, message: str, four_parts: Check
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        query_splats(splats, stored, prompt, teacher=TEACHER)
    four_parts(caught.value, 2)


def test_a_click_on_nothing(splats: Splats, stored: Features) -> None:
    away = camera()
    T = torch.eye(4)
    T[2, 3] = 50.0
    with pytest.raises(UsageError, match="no splat there"):
        prompt = PixelPrompt(camera=replace(away, T_world_cam=T), uv=(60.0, 40.0))
        query_splats(splats, stored, prompt)
    with pytest.raises(UsageError, match="background alone"):
        box = ImageBoxPrompt(camera=replace(away, T_world_cam=T), box_px=(0.0, 0.0, 60.0, 40.0))
        query_splats(splats, stored, box)


def test_a_click_on_what_nothing_observed(splats: Splats, tmp_path: Path) -> None:
    unknown = features(tmp_path, valid=np.zeros(NUM, np.bool_))
    for prompt in (
        PixelPrompt(camera=camera(), uv=(40.5, 40.5)),
        PointPrompt(xyz_m=(0.5, 0.5, 6.0)),
    ):
        with pytest.raises(UsageError, match="no teacher observed"):
            query_splats(splats, unknown, prompt)
    assert query_splats(splats, unknown, TextPrompt(text="mug"), teacher=TEACHER) == []


def test_texts_and_pictures_need_a_teacher(splats: Splats, stored: Features) -> None:
    shown = Image(rgb=torch.zeros(3, 80, 120), camera=camera(), name="lamp")
    with pytest.raises(UsageError, match="a text"):
        query_splats(splats, stored, TextPrompt(text="mug"))
    with pytest.raises(UsageError, match="a picture"):
        query_splats(splats, stored, ImagePrompt(image=shown))


def test_pictures_of_another_teacher(splats: Splats, stored: Features) -> None:
    class Wide(DirectionTeacher):
        def encode_image(self, image: Image) -> torch.Tensor:
            return torch.ones(7)

    shown = Image(rgb=torch.zeros(3, 80, 120), camera=camera(), name="lamp")
    with pytest.raises(UsageError, match="48 channels"):
        query_splats(splats, stored, ImagePrompt(image=shown), teacher=Wide())


def test_features_of_another_scene(splats: Splats, stored: Features) -> None:
    fewer = splats.select(torch.arange(20))
    with pytest.raises(UsageError, match="each of 20 splats"):
        query_splats(fewer, stored, TextPrompt(text="mug"), teacher=TEACHER)
    with pytest.raises(UsageError, match="one score for each"):
        select_splats(fewer, torch.zeros(NUM))


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"threshold": math.nan},
        {"top": 0},
        {"solid_opacity": -1.0},
        {"up": (0.0, 0.0, 0.0)},
        {"up": (math.nan, 0.0, 0.0)},
    ],
)
def test_options_out_of_range(wrong: dict[str, object], four_parts: Check) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))) as caught:
        SelectOptions(**wrong)
    four_parts(caught.value, 2)


@pytest.mark.parametrize("share", [0.0, 1.1, math.nan])
def test_a_mask_needs_a_share(splats: Splats, stored: Features, share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        selection_mask(mug(splats, stored), splats, camera(), share=share)


def test_masks_through_a_lens(splats: Splats, stored: Features) -> None:
    bent = replace(camera(), distortion=torch.tensor([0.1, 0, 0, 0]))
    with pytest.raises(UsageError, match="lens"):
        selection_mask(mug(splats, stored), splats, bent)
    with pytest.raises(UsageError, match="lens"):
        score_image(splats, torch.zeros(NUM), bent)
