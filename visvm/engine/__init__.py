"""The shared-prefix engine: prefill once, branch off, sample."""

from visvm.engine.engine import Engine
from visvm.engine.image_store import ImageStore, Prefix
from visvm.engine.kv import KV, Layout
from visvm.engine.linear import pack_linears
from visvm.engine.sequence_batch import SequenceBatch

__all__ = ["KV", "Engine", "ImageStore", "Layout", "Prefix", "SequenceBatch", "pack_linears"]
