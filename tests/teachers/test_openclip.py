from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

from xmodal.edges.encode.openclip import OpenClip
from xmodal.errors import BackendError, CheckpointError, ConfigError, UsageError
from xmodal.teachers.clip_dense import dense_rows, pooled_from_values, resized_positions
from xmodal.teachers.openclip import DEFAULT_TEMPLATES, OpenClipOptions, OpenClipTeacher
from xmodal.teachers.teacher import Teacher
from xmodal.teachers.torchvision_schemas import declare_operators

declare_operators()
open_clip = pytest.importorskip("open_clip")

VIT = {"width": 64, "layers": 2, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TOWERS = {
    "vit": VIT,
    "vit_scaled": {**VIT, "ls_init_value": 0.1},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "vit_average": {**VIT, "pool_type": "avg"},
    "vit_late_norm": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "vit_latent": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
    "timm_vit": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "timm_cnn": {
        "image_size": 64,
        "timm_model_name": "convnext_atto",
        "timm_pool": "",
        "timm_proj": "linear",
    },
}
ATTENTION = ("vit", "vit_scaled", "resnet")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models with random weights in `local-dir:` folders, as open_clip writes them."""
    root = tmp_path_factory.mktemp("clip")
    made = {}

    def get(name: str):
        if name not in made:
            folder = root / name
            folder.mkdir()
            model_cfg = {"embed_dim": 24, "vision_cfg": TOWERS[name], "text_cfg": TEXT}
            config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3}}
            (folder / "open_clip_config.json").write_text(json.dumps(config))
            torch.manual_seed(3)
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
            torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
            made[name] = folder
        return made[name]

    return get


def teacher_of(folder, **options) -> OpenClipTeacher:
    options.setdefault("templates", ("{}",))
    return OpenClipTeacher(OpenClipOptions(model=f"local-dir:{folder}", **options))


def a_batch(model) -> torch.Tensor:
    size = model.visual.image_size
    hw = (size, size) if isinstance(size, int) else tuple(size)
    return torch.rand(1, 3, *hw, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ATTENTION)
def test_values_pooled_by_the_models_attention_are_its_image_vector(models, name):
    model = teacher_of(models(name)).model
    x = a_batch(model)
    with torch.no_grad():
        expected = model.encode_image(x)[0]
        assert torch.allclose(pooled_from_values(model.visual, x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "vit_scaled"])
def test_a_place_is_what_the_class_token_takes_from_it_alone(models, name):
    visual = teacher_of(models(name)).model.visual
    x = a_batch(teacher_of(models(name)).model)
    with torch.no_grad():
        rows, grid_hw = dense_rows(visual, x)
        assert grid_hw == (4, 4)
        assert torch.allclose(rows[1], _update_from(visual, x, token=2), atol=1e-5)


def _update_from(visual, x, token):
    """What attention to one token adds, through the last norm and projection."""
    block = visual.transformer.resblocks[-1]
    tokens = visual._embeds(x)
    for layer in visual.transformer.resblocks[:-1]:
        tokens = layer(tokens)
    normed = block.ln_1(tokens)[:, token : token + 1]
    # a sequence of one attends to itself alone, by the model's own attention module
    update = block.ls_1(block.attention(normed))
    return (visual.ln_post(update) @ visual.proj)[0, 0]


@pytest.mark.parametrize("name", ["vit_average", "timm_vit"])
def test_places_average_to_the_image_vector_of_an_average_pool(models, name):
    model = teacher_of(models(name)).model
    x = a_batch(model)
    with torch.no_grad():
        rows, _ = dense_rows(model.visual, x)
        assert torch.allclose(rows.mean(dim=0), model.encode_image(x)[0], atol=1e-5)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_every_tower_describes_images_of_any_shape(models, make_image, name):
    teacher = teacher_of(models(name))
    assert isinstance(teacher, Teacher)
    found = teacher.encode(make_image(hw=(45, 80)))
    assert found.rows.shape == (found.grid_hw[0] * found.grid_hw[1], 24)
    assert found.grid_hw[1] > found.grid_hw[0]
    assert torch.allclose(found.rows.norm(dim=1), torch.ones(len(found.rows)), atol=1e-5)
    assert teacher.channels == 24
    assert not found.rows.requires_grad
    assert not found.rows.is_inference()


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_text_is_the_models_text(models, name):
    teacher = teacher_of(models(name))
    texts = ["coffee mug", "a chair"]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    with torch.no_grad():
        expected = teacher.model.encode_text(tokens, normalize=True)
    assert torch.allclose(teacher.encode_text(texts), expected, atol=1e-6)


def test_text_averages_templates_and_synonyms(models):
    folder = models("vit")
    plain = teacher_of(folder)
    ensemble = teacher_of(folder, templates=("a {}.", "the {}"))
    parts = plain.encode_text(["a mug.", "the mug", "a cup.", "the cup"])
    expected = functional.normalize(parts.mean(dim=0), dim=0)
    assert torch.allclose(ensemble.encode_text(["mug | cup"])[0], expected, atol=1e-6)


def test_the_image_vector_is_the_models(models, make_image):
    teacher = teacher_of(models("vit"))
    image = make_image(hw=(32, 32))
    x = (image.rgb[None] - 0.5) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        expected = teacher.model.encode_image(x, normalize=True)[0]
    assert torch.allclose(teacher.encode_image(image), expected, atol=1e-4)


def test_relevancy_is_a_pairwise_probability(models, make_image):
    teacher = teacher_of(models("vit"))
    rows = teacher.encode(make_image()).rows
    text, negative = teacher.encode_text(["mug"])[0], teacher.encode_text(["wall"])[0]
    scale = teacher.model.logit_scale.exp()
    expected = torch.sigmoid(scale * (rows @ text - rows @ negative))
    found = teacher.relevancy(rows, ["mug"], ["wall"])
    assert torch.allclose(found[:, 0], expected, atol=1e-5)
    equal = teacher.relevancy(rows, ["mug"], ["mug"])
    assert torch.allclose(equal, torch.full_like(equal, 0.5))
    default = teacher.relevancy(rows, ["mug", "chair"], [])
    assert default.shape == (len(rows), 2)
    assert 0 <= float(default.min()) <= float(default.max()) <= 1


@pytest.mark.usefixtures("packaged_weights")
@pytest.mark.slow
def test_mask_crops_are_described_by_the_whole_model(models, make_image):
    from xmodal.teachers.mask_grid import GridOptions
    from xmodal.teachers.sam import SamTeacher

    image = make_image(hw=(48, 64))
    image.rgb[:] = 0.1
    image.rgb[0, 12:36, 16:48] = 0.9
    masks = SamTeacher(options=GridOptions(grid=2, min_iou=0.5, min_stability=0.5))
    options = OpenClipOptions(model=f"local-dir:{models('vit')}", regions="masks")
    found = OpenClipTeacher(options, masks).encode(image)
    assert found.rows.shape == (found.membership.num_sources, 24)
    assert len(found.rows) >= 1
    assert torch.allclose(found.rows.norm(dim=1), torch.ones(len(found.rows)), atol=1e-5)


def test_positions_follow_the_grid():
    embedding = torch.cat([torch.zeros(1, 1), torch.arange(4.0)[:, None]])
    assert torch.equal(resized_positions(embedding, (2, 2), (2, 2)), embedding)
    wider = resized_positions(embedding, (2, 2), (2, 4))
    assert wider.shape == (9, 1)
    assert wider[0] == 0
    assert wider[1:5, 0].diff().min() > 0


def test_fingerprints_follow_weights_and_settings(models):
    vit, other = teacher_of(models("vit")), teacher_of(models("vit_scaled"))
    prints = {
        vit.fingerprint,
        other.fingerprint,
        teacher_of(models("vit"), image_size=64).fingerprint,
    }
    assert len(prints) == 3
    assert vit.fingerprint == teacher_of(models("vit")).fingerprint


def test_a_known_architecture_brings_its_own_colour_statistics():
    from xmodal.teachers.openclip import _colour_statistics

    siglip = _colour_statistics(open_clip, "ViT-B-16-SigLIP")
    assert siglip == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


# ---- what must be refused -------------------------------------------------------------------


def test_random_weights_are_refused(four_parts):
    with pytest.raises(ConfigError, match="pretrained") as caught:
        OpenClipTeacher(OpenClipOptions(model="ViT-B-16"))
    four_parts(caught.value, 4)


def test_an_unknown_architecture_is_refused(four_parts):
    teacher = OpenClipTeacher(OpenClipOptions(model="ViT-Z-1", pretrained="openai"))
    with pytest.raises(ConfigError, match="ViT-Z-1") as caught:
        _ = teacher.model
    four_parts(caught.value, 4)


def test_a_missing_file_is_no_tag(four_parts):
    teacher = OpenClipTeacher(OpenClipOptions(model="ViT-B-32", pretrained="/nowhere/w.pt"))
    with pytest.raises(CheckpointError, match="nowhere") as caught:
        _ = teacher.model
    four_parts(caught.value, 3)


@pytest.mark.parametrize("damage", ["truncated", "other", "absent"])
def test_bad_weights_are_refused(models, tmp_path, four_parts, damage):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes(
        (models("vit") / "open_clip_config.json").read_bytes()
    )
    weights = folder / "open_clip_pytorch_model.bin"
    if damage == "truncated":
        weights.write_bytes((models("vit") / weights.name).read_bytes()[:5000])
    elif damage == "other":
        weights.write_bytes((models("resnet") / weights.name).read_bytes())
    with pytest.raises(CheckpointError) as caught:
        _ = teacher_of(folder).model
    four_parts(caught.value, 3)


def test_code_in_a_checkpoint_never_runs(models, tmp_path, four_parts):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes(
        (models("vit") / "open_clip_config.json").read_bytes()
    )
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, 2))
    with pytest.raises(CheckpointError) as caught:
        _ = teacher_of(folder).model
    four_parts(caught.value, 3)
    assert not (tmp_path / "marker").exists()


def test_a_tower_without_a_value_path_says_so(models, four_parts):
    model = teacher_of(models("timm_cnn")).model
    with pytest.raises(BackendError, match="regions: masks") as caught:
        pooled_from_values(model.visual, a_batch(model))
    four_parts(caught.value, 5)


@pytest.mark.parametrize("text", ["", "  ", "|", "\x00\x07"])
def test_empty_text_is_refused(models, four_parts, text):
    with pytest.raises(UsageError) as caught:
        teacher_of(models("vit")).encode_text(["mug", text])
    four_parts(caught.value, 2)


@pytest.mark.parametrize(
    "bad",
    [
        {"image_size": 8},
        {"templates": ()},
        {"templates": ("a photo",)},
        {"scales": ()},
        {"scales": (0.1,)},
        {"area_power": float("nan")},
    ],
)
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OpenClip(**bad)


def test_the_op_knows_its_width_without_loading(models):
    assert OpenClip(model="ViT-B-16").channels == 512
    assert OpenClip(model="RN50").channels == 1024
    assert OpenClip(model=f"local-dir:{models('vit')}").channels == 24
    assert OpenClip(model="ViT-Z-1").channels is None
    assert OpenClip().templates == DEFAULT_TEMPLATES
