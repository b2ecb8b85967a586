"""The RUN folder and the feature stores in it."""

from xmodal.store.arrays import load_array
from xmodal.store.features import FeatureInfo, Features, differences, fingerprint_of
from xmodal.store.rows import Codec, LazyRows, StoredRows
from xmodal.store.run import Run, create_run, versions

__all__ = [
    "Codec",
    "FeatureInfo",
    "Features",
    "LazyRows",
    "Run",
    "StoredRows",
    "create_run",
    "differences",
    "fingerprint_of",
    "load_array",
    "versions",
]
