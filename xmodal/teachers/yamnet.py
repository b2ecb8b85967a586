"""YAMNet: what is heard in a sound, of 521 AudioSet classes, by a network for phones.

A MobileNet of 3.7 million parameters, quantised to 8 bits, on patches of 0.96 s. Two patches begin
0.48 s apart; a recording's row is the mean over its patches. A recording shorter than a patch is
filled up with silence.

Source:
    Plakal and Ellis, YAMNet, TensorFlow models, 2020; Gemmeke et al., Audio Set, ICASSP 2017.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifting.signals.resampling import resample
from lifting.signals.spectra import YAMNET
from xmodal.errors import DataError
from xmodal.teachers.audioset_text import NUM_CLASSES, TEMPERATURE, AudioSetText, class_names
from xmodal.teachers.litert import LiteRtNetwork, Tap
from xmodal.teachers.minilm import MiniLm
from xmodal.teachers.recordings import mean_rows
from xmodal.teachers.teacher import Space, check_texts
from xmodal.teachers.yamnet_files import CLASS_MAP, NETWORK
from xmodal.values import Audio, Embedding

Output = Literal["embedding", "classes"]
NUM_FEATURES = 1024
PATCH_FRAMES, HOP_FRAMES = 96, 48
# Raise when the code changes what comes out for the same settings.
_REVISION = 1


@dataclass(frozen=True, eq=False)
class Heard:
    """What the network says of each patch.

    Attributes:
        features: Activations before the last layer, 0 or more.
        scores: Probability of each class; several can be heard at once, so they do not sum to 1.
        logits: Scores before the sigmoid.
    """

    features: Float[Tensor, "P 1024"]
    scores: Float[Tensor, "P 521"]
    logits: Float[Tensor, "P 521"]


class YamnetTeacher:
    """A row for each recording; see `xmodal.teachers.recordings.RecordingTeacher`.

    Args:
        output: `embedding`: the 1024 activations before the last layer. `classes`: the class scores
            divided by their sum, so that `kl` can compare them.
        weights: The network's file, or the folder that it and its class map are in; by default
            `yamnet` in the folders of `weight_folders()`.

    Raises:
        BackendError: If the files cannot be found.
        CheckpointError: If they are not those that were tested.
    """

    name = "yamnet"

    def __init__(self, output: Output = "embedding", weights: str | Path | None = None) -> None:
        self.output: Output = output
        self._path = NETWORK.locate(weights)
        self._encoder = MiniLm()
        names = class_names(CLASS_MAP.locate(self._path.parent))
        self._text = AudioSetText(names, self._encoder)
        self.licence = f"{NETWORK.licence} (YAMNet, all-MiniLM-L6-v2), {CLASS_MAP.licence} (names)"
        self.fingerprint = self._fingerprint()

    @property
    def channels(self) -> int:
        """Width of a row."""
        return NUM_FEATURES if self.output == "embedding" else NUM_CLASSES

    @property
    def space(self) -> Space:
        """`raw` activations, or `simplex` shares of classes."""
        return "raw" if self.output == "embedding" else "simplex"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the AudioSet classes."""
        return self._text.names

    def encode(self, value: Audio, /) -> Embedding:
        """The mean over the patches of each recording; not valid where it has no sound.

        Raises:
            DataError: If an amplitude is not finite.
        """
        parts: list[Tensor] = []
        for patches in self.patches(value):
            heard = self.hear(patches)
            parts.append(heard.features if self.output == "embedding" else _shares(heard.scores))
        return mean_rows(parts, self.channels)

    def patches(self, audio: Audio) -> list[Float[Tensor, "P 96 64"]]:
        """Log-mel patches of each recording, microphones averaged; none where it has no sound.

        Raises:
            DataError: If an amplitude is not finite.
        """
        found: list[Tensor] = []
        for start, end in audio.offsets.unfold(0, 2, 1).tolist():
            mono = audio.amplitudes[:, start:end].mean(dim=0)
            if not bool(torch.isfinite(mono).all()):
                raise DataError(
                    f"sound of recording {len(found)}",
                    wanted="finite amplitudes",
                    got=f"{int((~torch.isfinite(mono)).sum())} that are NaN or infinite",
                    fix="repair the file, or leave this recording out",
                )
            found.append(_patches(mono, audio.rate_hz))
        return found

    def hear(self, patches: Float[Tensor, "P 96 64"]) -> Heard:
        """Features and class scores of log-mel patches."""
        raw = self._net.run(patches, self._taps)
        return Heard(raw["features"], raw["scores"], raw["logits"])

    def classify(self, features: Float[Tensor, "N 1024"]) -> Float[Tensor, "N 521"]:
        """Class scores of embeddings, of the teacher or of a student, by the network's own layer.

        The layer's weights are the network's 8-bit ones; it works in float32 here, where the
        network rounds logits to 0.31.
        """
        matrix, bias = self._layer
        return torch.sigmoid(features @ matrix.to(features).T + bias.to(features))

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """One row per text; `|` joins synonyms, which are averaged.

        For `classes` its weights of the classes, which sum to 1; for `embedding` the direction in
        which the logit of these classes grows, of length 1.
        """
        prompts = check_texts(text)
        if not prompts:
            return torch.zeros(0, self.channels)
        weights = torch.stack([self._text.weights(one) for one in prompts])
        if self.output == "classes":
            return weights
        return functional.normalize(weights @ self._layer[0], dim=1)

    def relevancy(
        self, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """The share of what is heard that the text means, in [0, 1].

        With negatives the score s is multiplied by s / (s + n), n being the strongest negative's.
        """
        shares = rows if self.output == "classes" else _shares(self.classify(rows))
        score = self._mass(shares, text)
        if not negatives:
            return score
        rival = self._mass(shares, negatives).amax(dim=1, keepdim=True)
        total = score + rival
        return torch.where(total > 0, score * score / total.clamp_min(1e-30), score)

    def _mass(self, shares: Tensor, text: list[str]) -> Tensor:
        weights = torch.stack([self._text.weights(one) for one in check_texts(text)])
        return (shares @ weights.to(shares).T).clamp(0, 1)

    @cached_property
    def _net(self) -> LiteRtNetwork:
        return LiteRtNetwork(self._path)

    @cached_property
    def _taps(self) -> dict[str, Tap]:
        # The order of tensors is the converter's business; shapes and names of layers are the
        # network's.
        find = self._net.find
        return {
            "features": find(
                "the embedding", lambda t: t.shape == (1, 1, 1, NUM_FEATURES) and "mean" in t.name
            ),
            "logits": find(
                "the logits", lambda t: t.shape == (1, NUM_CLASSES) and "BiasAdd" in t.name
            ),
            "scores": self._net.output,
        }

    @cached_property
    def _layer(self) -> tuple[Tensor, Tensor]:
        matrix = self._net.find("the last layer", lambda t: t.shape == (NUM_CLASSES, NUM_FEATURES))
        bias = self._net.find("its biases", lambda t: t.shape == (NUM_CLASSES,))
        return self._net.constant(matrix), self._net.constant(bias)

    def _fingerprint(self) -> str:
        parts = {
            "revision": _REVISION,
            "output": self.output,
            "temperature": TEMPERATURE,
            "weights": [NETWORK.sha256, CLASS_MAP.sha256, self._encoder.weights_sha256],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _patches(mono: Tensor, rate_hz: float) -> Float[Tensor, "P 96 64"]:
    if len(mono) == 0:
        return torch.zeros(0, PATCH_FRAMES, YAMNET.num_mels)
    sound = resample(mono.to(torch.float32), rate_hz, YAMNET.rate_hz)
    missing = YAMNET.num_samples(PATCH_FRAMES) - len(sound)
    frames = YAMNET(functional.pad(sound, (0, max(0, missing))))
    return frames.unfold(1, PATCH_FRAMES, HOP_FRAMES).permute(1, 2, 0)


def _shares(scores: Float[Tensor, "N 521"]) -> Float[Tensor, "N 521"]:
    """Scores as probabilities: their parts of their sum."""
    return scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-6)
