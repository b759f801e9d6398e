"""Make ``transformers.AutoModel`` know the value model once ``visvm`` was imported, at no cost before.

Registering needs the class, and the class needs torch and transformers. So it is done when ``AutoModel`` is
first imported: then both are loaded, and the rest takes a fraction of a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.modeling_auto"


class RegisterAfterImport(MetaPathFinder):
    """Finds AUTO as usual, once, and has the value model registered when its import is done."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()

            loader.exec_module = exec_module
        return spec


def register_value_model() -> None:
    """Register the value model with AutoModel: now if AutoModel is imported already, else when it is."""
    if AUTO in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, RegisterAfterImport())


def _register() -> None:
    importlib.import_module("visvm.value.model")  # registers itself
