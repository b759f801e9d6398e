"""The shared-prefix engine: prefill once, branch off, sample."""

from visvm.engine.engine import Engine, lay_out_by_column
from visvm.engine.pictures import PictureStore, Prefix
from visvm.engine.rows import Rows

__all__ = ["Engine", "PictureStore", "Prefix", "Rows", "lay_out_by_column"]
