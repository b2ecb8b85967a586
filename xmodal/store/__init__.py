"""The RUN folder and the feature stores in it."""

from xmodal.store.run import FeatureInfo, Features, Run, create_run, fingerprint_of, versions
from xmodal.store.arrays import load_array

__all__ = [
    "FeatureInfo",
    "Features",
    "Run",
    "create_run",
    "fingerprint_of",
    "load_array",
    "versions",
]
