"""The rules of the house, checked by reading the source: sizes, arrows between floors, light imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 300
MAX_FILE_BYTES = 4_000_000
MAX_WEIGHTS_BYTES = 30_000_000

# Each package may import those to its left, never one to its right.
PACKAGES = ("visvm", "actors", "jobs")
FLOORS = (
    {
        "records",
        "schemas",
        "sentences",
        "prompts",
        "images",
        "config",
        "fetch",
        "model_files",
        "storage",
        "tables",
        "units",
        "server_policy",
    },
    {"engine", "families", "plugins", "registration", "image_input"},
    {"policy", "decoder", "detokenizer", "value", "reward", "models", "loading"},
    {"search", "scorers", "training", "metrics"},
    {"world", "report", "benchmark", "chat", "captioner"},
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, at the top or inside a function, by its absolute dotted name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor(dotted: str) -> int | None:
    """The floor of ``visvm.NAME...``; None for the package itself, which holds nothing."""
    names = dotted.split(".")
    if len(names) < 2:
        return None
    found = [number for number, members in enumerate(FLOORS, start=1) if names[1] in members]
    assert found, f"{dotted} stands on no floor: give {names[1]!r} its place in FLOORS"
    return found[0]


def test_functions_and_files_are_short() -> None:
    too_long = []
    for path in sources(*PACKAGES, "tests", ".ci"):
        text = path.read_text()
        too_long += [f"{path}: {n} lines"] if (n := len(text.splitlines())) > MAX_FILE_LINES else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                too_long += (
                    [f"{path}:{node.lineno} {node.name}: {lines}"] if lines > MAX_FUNCTION_LINES else []
                )
    assert too_long == []


def test_packages_import_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for rank, package in enumerate(PACKAGES)
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in (*PACKAGES[rank + 1 :], *(("ray",) if package == "visvm" else ()))
    ]
    assert wrong == []


def test_floors_import_downwards() -> None:
    wrong = []
    for path in sources("visvm"):
        own = floor(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        for name in imports(path):
            other = floor(name) if name.startswith("visvm.") else None
            if own is not None and other is not None and other > own:
                wrong.append(f"{path.relative_to(ROOT)} (floor {own}) imports {name} (floor {other})")
    assert wrong == []


def test_cluster_holds_no_python() -> None:
    assert sources("cluster") == []


@pytest.mark.parametrize("module", ["visvm", "visvm.records", "jobs.cli"])
def test_import_is_light(module: str) -> None:
    code = (
        f"import sys, {module}; print(*({{'torch', 'transformers', 'ray', 'open_clip'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).exists()]


def test_committed_files_are_small() -> None:
    files = tracked()
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= MAX_WEIGHTS_BYTES
    large = {path.name: path.stat().st_size for path in files if path not in weights}
    assert {name: size for name, size in large.items() if size > MAX_FILE_BYTES} == {}


def test_pins_are_exact_and_name_no_address() -> None:
    pins = (ROOT / "requirements.txt").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"\S*://\S*|--\w*index\S*|--find-links", pins + project) == []
    names = re.findall(r"^(\S+==\S+)", pins, flags=re.MULTILINE)
    assert len(names) > 100
    assert [name for name in names if f'"{name}' not in project] == []
