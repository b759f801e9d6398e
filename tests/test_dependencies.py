"""Every package that is imported is declared in pyproject.toml, and every declared one is imported."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.support.paths import ROOT
from tests.test_house import PACKAGES, imports, sources

INDIRECT = {
    "torchvision": "transformers' image processors",
    "accelerate": "transformers' Trainer",
    "num2words": "transformers' SmolVLM processor",
    "rich": "captions and traces in the terminal",
}
"""Declared, and not imported by name: what needs each."""

OPTIONAL = {"spacy"}
"""Imported where it is there: its word vectors make AMBER's similarity table, once."""

TOOLS = {"pytest-timeout", "pytest-xdist", "ruff", "mypy", "types-pyyaml"}
"""Declared for development, and run instead of imported."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, without versions and extras."""
    return {normalised(re.split(r"[\[<>=! ;]", requirement)[0]) for requirement in requirements}


def imported(*folders: str) -> set[str]:
    """The distributions whose modules the files of these folders import."""
    known = packages_distributions()
    modules = {name.split(".")[0] for path in sources(*folders) for name in imports(path)}
    third_party = modules - sys.stdlib_module_names - {*PACKAGES, "tests"}
    return {normalised(known.get(module, [module])[0]) for module in third_party}


def test_what_the_packages_import_is_declared_and_the_reverse() -> None:
    dependencies = declared(PROJECT["project"]["dependencies"])
    assert imported(*PACKAGES) - dependencies == OPTIONAL
    assert dependencies - imported(*PACKAGES) <= INDIRECT.keys()


def test_what_the_tests_import_is_declared_and_the_reverse() -> None:
    dependencies, dev = (
        declared(PROJECT["project"]["dependencies"]),
        declared(PROJECT["dependency-groups"]["dev"]),
    )
    assert imported("tests", ".ci") - dependencies - dev == set()
    assert dev - imported("tests", ".ci") == TOOLS
    assert dev & dependencies == set()


def test_an_undeclared_import_would_be_found() -> None:
    assert declared(["ray[data,train]>=2.60", "pydantic>=2", "Types_PyYAML"]) == {
        "ray",
        "pydantic",
        "types-pyyaml",
    }
    assert {"pillow", "pyyaml", "ray", "open-clip-torch"} <= imported(*PACKAGES)
