"""Paths of the repository and of the shared data next to it (absent outside the project's CI)."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
