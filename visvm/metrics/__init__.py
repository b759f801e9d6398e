"""Caption metrics: CHAIR, recall and length, with bootstrap intervals over images."""

from visvm.metrics.coco import read_truth
from visvm.metrics.evaluation import Resampling, evaluate

__all__ = ["Resampling", "evaluate", "read_truth"]
