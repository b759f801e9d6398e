"""The vision value model, and the scorers that search with it."""

from visvm.value.model import StateReader, VisionValueConfig, VisionValueModel, check_value_model
from visvm.value.scorer import FutureScorer, ValueScorer

__all__ = [
    "FutureScorer",
    "StateReader",
    "ValueScorer",
    "VisionValueConfig",
    "VisionValueModel",
    "check_value_model",
]
