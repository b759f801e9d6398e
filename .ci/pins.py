"""Resolve the newest allowed versions and pin them: `python .ci/pins.py` from the repository's root.

`python .ci/pins.py --keep` keeps the versions that are pinned, and adds those of new dependencies.

Writes [tool.uv] constraint-dependencies in pyproject.toml (what `uv sync` and `uv run` obey) and
requirements.txt with hashes (what `pip install --require-hashes -r requirements.txt` checks). Neither
holds a download address, so both work with any index.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

START, END = "constraint-dependencies = [", "]\n"
EXPORT = ("uv", "export", "--format", "requirements.txt", "--no-emit-project", "--all-groups", "--quiet")
BARE = ("--no-header", "--no-annotate")


def main() -> None:
    """Drop the old pins unless they are kept, resolve, write the new ones."""
    project = Path("pyproject.toml")
    if "--keep" not in sys.argv[1:]:
        write_pins(project, [])
    subprocess.run(("uv", "lock", "--upgrade"), check=True)
    requirements = export(*BARE, "--no-hashes")
    Path("requirements.txt").write_text(export(*BARE))
    write_pins(project, requirements.splitlines())
    subprocess.run(("uv", "lock"), check=True)


def export(*options: str) -> str:
    """The resolved set in pip's format."""
    return subprocess.run((*EXPORT, *options), check=True, capture_output=True, text=True).stdout


def write_pins(project: Path, pins: list[str]) -> None:
    """Replace the list of constraints in pyproject.toml."""
    block = "".join(f"    {json.dumps(pin)},\n" for pin in pins)
    pattern = re.escape(START) + r".*?^" + re.escape(END)
    text, count = re.subn(
        pattern, lambda _: f"{START}\n{block}{END}", project.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{project} must hold one '{START}' list, found {count}")
    project.write_text(text)


if __name__ == "__main__":
    main()
