"""The measuring itself: same results in both arms, one JSON line, peaks that are really there."""

import json

import pytest
import torch

from benchmarks import harness
from benchmarks.fusion import OPTIONS, as_views, compare, make_maps, make_world, peer_fusion
from benchmarks.harness import Benchmark, Case
from lifting import lift_by_block
from xmodal.errors import BackendError


def tiny(fail: bool = False) -> Benchmark:
    def build(size: int) -> Case:
        if fail:
            harness.need("no_such_peer", "pip install no-such-peer")
        return Case(ours=lambda: size, peer=lambda: [0] * size, error=lambda: 0.25)

    return Benchmark(
        name="tiny",
        build=build,
        settings={"": {"size": 1}, "_large": {"size": 100}},
        warm={"size": 1},
        extra=lambda: {"slope": 1.0},
    )


@pytest.fixture
def no_children(monkeypatch):
    monkeypatch.setattr(harness, "peak_mb", lambda _module, arm, _setting: len(arm) * 1.5)


@pytest.mark.usefixtures("no_children")
def test_json_is_one_line_with_all_keys(capsys):
    assert harness.main(tiny(), ["--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    keys = ["ours_s", "peer_s", "ratio", "ours_peak_mb", "peer_peak_mb", "peak_fraction", "error"]
    assert list(figures) == ["name", *keys, *(f"{key}_large" for key in keys), "slope"]
    assert figures["name"] == "tiny"
    assert figures["peak_fraction"] == 1.0
    assert figures["ratio"] == pytest.approx(figures["peer_s"] / figures["ours_s"], rel=1e-3)


@pytest.mark.usefixtures("no_children")
def test_without_json_it_is_a_table(capsys):
    assert harness.main(tiny(), []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny"
    assert any(line.split() == ["error_large", "0.25"] for line in lines)


def test_a_missing_peer_ends_with_code_5_and_four_parts(capsys):
    assert harness.main(tiny(fail=True), ["--json"]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("no_such_peer", "wanted:", "got:", "fix:    pip install no-such-peer"):
        assert part in captured.err


def test_need_gives_the_module_or_says_what_to_install():
    assert harness.need("json", "") is json
    with pytest.raises(BackendError, match="pip install x"):
        harness.need("no_such_peer", "pip install x")


def test_arms_alternate():
    order: list[str] = []
    harness.interleave(lambda: order.append("ours"), lambda: order.append("peer"), repeats=3)
    assert order == ["ours", "peer"] * 3


@pytest.mark.slow
def test_a_peak_is_seen_from_outside():
    # The peer gathers all points of a view at once: 20,000 x 64 float32 are 5 MB.
    setting = {"num_points": 20_000, "num_views": 2, "channels": 64, "rows": 24, "columns": 32}
    assert harness.peak_mb("benchmarks.fusion", "peer", setting) > 5
    assert harness.peak_mb("benchmarks.fusion", "ours", setting) < 5


def test_both_arms_of_fusion_agree_with_brute_force():
    # Finer pixels than elsewhere: where two walls meet, a coarse pixel shows only one of them.
    world = make_world(3000, 4, (240, 320))
    maps = make_maps(4, 240 * 320, 8)
    out = torch.full((3000, 8), torch.nan)
    views = as_views(world, maps)
    ours = compare(world, maps, lift_by_block(views, world.xyz, options=OPTIONS, out=out).rows)
    peer = compare(world, maps, peer_fusion(world, [m.T.view(8, 240, 320) for m in maps], out))
    for found in (ours, peer):
        assert found.mean_cosine > 0.9999
        assert found.unexplained_points == 0
        assert 0.03 < found.visible_fraction < 0.12
