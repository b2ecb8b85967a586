"""Sound learns dense maps, with its inner maps matched to the teacher's beside the dense one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from xmodal.edges.distill.mse import Mse
from xmodal.edges.distill.spatial_matching import SpatialMatching
from xmodal.edges.encode.grid_decoder import GridDecoderOp
from xmodal.recordings.recording import gather
from xmodal.train.data import Distill
from xmodal.train.loop import TrainOptions, fit
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.values import Grids

OP = GridDecoderOp(size="micro", grid_hw=(8, 16), levels=2, window_s=0.5)
OPTIONS = TrainOptions(steps=12, batch=6, lr=3e-3, warmup_steps=1, log_every=1)
CELLS = 8 * 16


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    """Tones, and a depth map for each pitch; one recording has no map."""
    whole = synthetic.recordings(groups=2, each=1, kinds=("audio",))
    ids = whole.labels.ids
    depths = torch.rand(3, CELLS, generator=torch.Generator().manual_seed(0)) * 3 + 1
    valid = (torch.arange(len(ids)) > 0).repeat_interleave(CELLS)
    grids = Grids(
        rows=depths[ids].reshape(-1, 1),
        valid=valid,
        weight=valid.float(),
        grid_hw=(8, 16),
        offsets=torch.arange(len(ids) + 1) * CELLS,
    )
    return Recorded(
        names=whole.names,
        clips={"seen": OP.describe(gather(whole, "audio"))},
        stored={"depth": grids},
        classes=ids,
        groups=torch.zeros_like(ids),
    )


def test_inner_maps_are_matched_in_training(recorded: Recorded, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = OP.build(channels=1)
    op = SpatialMatching(layers=3)
    matching = op.build(source_channels=(1,), student=net)
    edges = [Distill(Mse(), "depth", "seen"), Distill(op, "depth", "seen", matching)]
    before = [p.detach().clone() for p in matching.parameters()]
    done = fit(
        {"seen": ClipLearner(OP, net, ("mic",))}, edges, recorded, options=OPTIONS, out=tmp_path
    )
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    assert all(not torch.equal(a, b) for a, b in zip(before, matching.parameters(), strict=True))
