from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from xmodal.edges.encode.sam import Sam
from xmodal.errors import CheckpointError, ConfigError, UsageError
from xmodal.teachers import Teacher
from xmodal.teachers.mask_grid import GridOptions
from xmodal.teachers.sam import SamTeacher
from xmodal.teachers.sam_decoder import MaskUpscaler, PromptTokens
from xmodal.teachers.sam_networks import PromptedSam, _build, resized_hw


@dataclass
class Parts:
    prompt_encoder: torch.nn.Module
    mask_decoder: torch.nn.Module


@pytest.fixture(scope="module")
def decoder_parts() -> Parts:
    """SAM's decoder with random weights and biases (biases of zero would hide mistakes)."""
    pytest.importorskip("segment_anything")
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    torch.manual_seed(5)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=64, num_heads=8)
    parts = Parts(
        PromptEncoder(
            embed_dim=256,
            image_embedding_size=(64, 64),
            input_image_size=(1024, 1024),
            mask_in_chans=16,
        ),
        MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3),
    )
    for part in (parts.prompt_encoder, parts.mask_decoder):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.08)
    return parts


def test_the_rearranged_decoder_is_the_decoder(decoder_parts):
    embedding = torch.randn(1, 256, 64, 64)
    xy = torch.tensor([[10.0, 1000.0], [512.5, 300.25]])
    prompts, masks = decoder_parts.prompt_encoder, decoder_parts.mask_decoder
    with torch.no_grad():
        sparse, dense = prompts(points=(xy[:, None], torch.ones(2, 1)), boxes=None, masks=None)
        expected, expected_iou = masks(
            image_embeddings=embedding,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense[:1],
            multimask_output=True,
        )
        iou, coefficients, cells = PromptTokens(decoder_parts, 1024)(embedding, xy)
        found = MaskUpscaler(decoder_parts)(coefficients, cells)
    assert found.shape == (2, 3, 256, 256)
    assert torch.allclose(iou, expected_iou, rtol=1e-4, atol=1e-5)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(("hw", "inside"), [((480, 640), (768, 1024)), ((10, 4), (1024, 410))])
def test_the_longer_side_becomes_1024(hw, inside):
    assert resized_hw(hw) == inside


@pytest.fixture(scope="module")
def scene_image():
    from lifting.cameras import Camera
    from xmodal.values import Image

    rgb = torch.full((3, 96, 128), 0.15)
    rgb[0, 20:70, 20:60] = 0.9
    rgb[1, 30:80, 80:120] = 0.8
    camera = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=(96, 128))
    return Image(rgb=rgb, camera=camera, name="boxes")


@pytest.mark.usefixtures("packaged_weights")
def test_masks_of_two_boxes(scene_image):
    teacher = SamTeacher(options=GridOptions(grid=4))
    assert isinstance(teacher, Teacher)
    found = teacher.encode(scene_image)
    assert found.grid_hw == (192, 256)
    assert found.rows.shape == (found.membership.num_sources, 256)
    assert torch.allclose(found.rows.norm(dim=1), torch.ones(len(found.rows)), atol=1e-5)
    truth = torch.zeros(2, 192, 256, dtype=torch.bool)
    truth[0, 40:140, 40:120] = True
    truth[1, 60:160, 160:240] = True
    masks = found.membership.to_dense().T > 0
    for box in truth.flatten(1):
        overlap = (masks & box).sum(dim=1) / (masks | box).sum(dim=1)
        assert float(overlap.max()) > 0.9


@pytest.mark.usefixtures("packaged_weights")
def test_masks_below_the_threshold_are_not_computed(scene_image):
    network = PromptedSam()
    embedding = network.embed(scene_image.rgb)
    xy = torch.tensor([[320.0, 360.0], [800.0, 440.0]])
    masks, iou = network.masks(embedding, xy)
    assert masks.shape == (6, 256, 256)
    middle = float(iou.sort().values[2:4].mean())
    some, some_iou = network.masks(embedding, xy, middle)
    assert torch.equal(some_iou, iou[iou > middle])
    assert torch.allclose(some, masks[iou > middle], atol=1e-3)
    none, none_iou = network.masks(embedding, xy, 2.0)
    assert none.shape == (0, 256, 256)
    assert none_iou.numel() == 0


@pytest.mark.usefixtures("packaged_weights")
def test_an_image_without_masks_gives_none(make_image):
    teacher = SamTeacher(options=GridOptions(grid=1, min_iou=1.0))
    found = teacher.encode(make_image())
    assert found.rows.shape == (0, 256)
    assert found.membership.nnz == 0


def test_sam_has_no_text(four_parts):
    teacher = SamTeacher()
    for ask in (
        lambda: teacher.encode_text(["mug"]),
        lambda: teacher.relevancy(torch.zeros(1, 256), ["mug"], []),
    ):
        with pytest.raises(UsageError, match="text") as caught:
            ask()
        four_parts(caught.value, 2)


def test_sam_needs_its_checkpoint(tmp_path, four_parts):
    with pytest.raises(ConfigError, match="vit_b") as caught:
        SamTeacher("vit_b")
    four_parts(caught.value, 4)
    with pytest.raises(CheckpointError, match="no such file") as caught:
        SamTeacher("vit_b", checkpoint=tmp_path / "sam.pth")
    four_parts(caught.value, 3)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, make_image, four_parts):
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    teacher = SamTeacher("vit_t", checkpoint=path)
    with pytest.raises(CheckpointError, match="is missing") as caught:
        teacher.encode(make_image())
    four_parts(caught.value, 3)


@pytest.mark.slow
def test_a_checkpoint_of_the_user_gives_the_same_masks(tmp_path, make_image, monkeypatch):
    """A SAM of any architecture from a file, here MobileSAM with random weights."""
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    sam = _build("vit_t")
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    network = PromptedSam("vit_t", tmp_path / "sam.pth")
    image = make_image(hw=(96, 128))
    embedding = network.embed(image.rgb)
    xy = torch.tensor([[100.0, 200.0]])
    masks, iou = network.masks(embedding, xy, -1e9)
    sparse, dense = sam.prompt_encoder(
        points=(xy[:, None], torch.ones(1, 1)), boxes=None, masks=None
    )
    with torch.no_grad():
        expected, expected_iou = sam.eval().mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    assert torch.allclose(masks, expected[0], atol=1e-4)
    assert torch.allclose(iou, expected_iou[0], atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        {"grid": 0},
        {"min_iou": 1.5},
        {"min_stability": -0.1},
        {"max_overlap": float("nan")},
        {"area_power": -1.0},
        {"mask_long_side": 8},
    ],
)
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sam(**bad)
