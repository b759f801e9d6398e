"""The shared-prefix engine: prefill once, branch off, sample."""

from visvm.engine.engine import Engine
from visvm.engine.linear import pack_linears
from visvm.engine.pictures import PictureStore, Prefix
from visvm.engine.rows import Rows

__all__ = ["Engine", "PictureStore", "Prefix", "Rows", "pack_linears"]
