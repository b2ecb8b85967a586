"""EfficientNet-Lite2, an ImageNet classifier, in ONNX Runtime.

Its inputs are `(x - 127) / 128` for 8-bit x, not the usual ImageNet mean and deviation: the wrong
normalisation costs 0.2 of accuracy.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from xmodal.teachers.onnx_models import Exported, OnnxModel
from xmodal.teachers.weights import EFFICIENTNET_LITE2, need

NUM_CLASSES = 1000
INPUT_SIDE = 260
# Crops classified at once: enough to keep two cores busy, small enough for their caches.
_BATCH = 8
# The size of the images that the share of dense logits was chosen on.
_DENSE_LONG_SIDE = 640


class EfficientNetLite2:
    """Class logits of crops, or of each place of an image; weights are read at first use."""

    licence = EFFICIENTNET_LITE2.licence
    weights_sha256 = EFFICIENTNET_LITE2.sha256

    @cached_property
    def _crops(self) -> OnnxModel:
        EFFICIENTNET_LITE2.locate()
        return OnnxModel(
            Exported(
                name="efficientnet_lite2",
                version=f"{EFFICIENTNET_LITE2.sha256}/1",
                build=lambda: (load_network(), (torch.zeros(2, 3, INPUT_SIDE, INPUT_SIDE),)),
                inputs=("crops",),
                outputs=("logits",),
                batched=("crops", "logits"),
            )
        )

    def classify(self, crops: UInt8[Tensor, "K 260 260 3"]) -> Float[Tensor, "K 1000"]:
        """Class logits of square RGB crops of 260 pixels."""
        if not len(crops):
            return torch.zeros(0, NUM_CLASSES)
        return torch.cat([self._crops(normalised(batch))[0] for batch in crops.split(_BATCH)])

    def dense(
        self, rgb: Float[Tensor, "3 H W"], long_side: int = _DENSE_LONG_SIDE
    ) -> Float[Tensor, "h w 1000"]:
        """Class logits of each place of an image, one for about 32 x 32 pixels.

        The classifier's pooling is left out: its last layer is read at every place.

        Args:
            rgb: The image, in [0, 1].
            long_side: Its longer side is first brought to so many pixels.
        """
        scale = long_side / max(rgb.shape[1:])
        size = [max(INPUT_SIDE // 4, round(side * scale)) for side in rgb.shape[1:]]
        x = nn.functional.interpolate(
            rgb[None], size=size, mode="bilinear", antialias=True, align_corners=False
        )
        return self._places((x * 255 - 127) / 128)[0][0]

    @cached_property
    def _places(self) -> OnnxModel:
        EFFICIENTNET_LITE2.locate()
        return OnnxModel(
            Exported(
                name="efficientnet_lite2_dense",
                version=f"{EFFICIENTNET_LITE2.sha256}/1",
                build=lambda: (_Dense(load_network()), (torch.zeros(1, 3, 480, 640),)),
                inputs=("image",),
                outputs=("logits",),
                resized=("image",),
            )
        )


class _Dense(nn.Module):
    """The classifier without its pooling."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return self.net._fc(self.net.extract_features(image).permute(0, 2, 3, 1))


def normalised(crops: UInt8[Tensor, "K s t 3"]) -> Float[Tensor, "K 3 s t"]:
    """8-bit RGB crops as the network wants them."""
    return ((crops.permute(0, 3, 1, 2).float() - 127) / 128).contiguous()


def load_network() -> Any:
    """EfficientNet-Lite2 in torch, in eval mode, with the packaged weights."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise need("efficientnet_lite_pytorch", "embedded") from None
    net = EfficientNet.from_name("efficientnet-lite2")
    weights = torch.load(EFFICIENTNET_LITE2.locate(), map_location="cpu", weights_only=True)
    net.load_state_dict(weights)
    return net.eval()
