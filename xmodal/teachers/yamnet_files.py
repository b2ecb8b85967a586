"""Files that YAMNet needs: known without loading anything heavy."""

from __future__ import annotations

from xmodal.teachers.local_weights import LocalFile

NETWORK = LocalFile(
    folder="yamnet",
    name="yamnet_spectra_in.tflite",
    sha256="0a266465c46718f3fcc4137366be82882a8c93bfcc4f0278581a11d11dddcdf9",
    source="google-coral/coralmicro, models",
    licence="Apache-2.0",
)
CLASS_MAP = LocalFile(
    folder="yamnet",
    name="yamnet_class_map.csv",
    sha256="cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
    source="tensorflow/models, research/audioset/yamnet",
    licence="CC BY 4.0",
)
