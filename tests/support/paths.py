"""Where the tests find the repository, and the shared data beside it (absent outside this project's CI)."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
