"""The shared-prefix engine: a picture is encoded once, candidates branch off its keys and values."""

from visvm.engine.engine import Block, Engine, Fork

__all__ = ["Block", "Engine", "Fork"]
