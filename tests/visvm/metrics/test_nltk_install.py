"""NLTK's data from packages at hand: copied, unpacked, completed, and tried."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nltk
import pytest

from visvm.metrics import nltk_data, nltk_install
from visvm.metrics.nltk_install import LEXNAMES, install


def test_packages_are_copied_or_unpacked_and_what_is_missing_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "corpora").mkdir(parents=True)
    (source / "punkt_tab" / "english").mkdir(parents=True)
    (source / "punkt_tab" / "english" / "abbrev_types.txt").write_text("dr\n")
    with zipfile.ZipFile(source / "corpora" / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/noun.exc", "geese goose\n")
    missing = install(str(tmp_path / "data"), source=str(source))
    assert set(missing) == set(nltk_data.PACKAGES)  # the first two are there but are no real ones
    assert missing["averaged_perceptron_tagger_eng"] == "not installed"
    assert (tmp_path / "data" / "tokenizers" / "punkt_tab" / "english" / "abbrev_types.txt").is_file()
    assert (tmp_path / "data" / "corpora" / "wordnet" / "noun.exc").read_text() == "geese goose\n"


def test_a_wordnet_of_debian_gets_the_index_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "noun.exc").write_text("")
    install(str(tmp_path / "data"), source=str(tmp_path), wordnet=str(tmp_path / "debian"))
    lines = (tmp_path / "data" / "corpora" / "wordnet" / "lexnames").read_text().splitlines()
    assert len(lines) == len(LEXNAMES) == 45
    assert (lines[0], lines[3], lines[29], lines[44]) == (
        *("00\tadj.all\t3", "03\tnoun.Tops\t1", "29\tverb.body\t2", "44\tadj.ppl\t3"),
    )


def test_nltks_own_folders_are_as_before(tmp_path: Path) -> None:
    before = list(nltk.data.path)
    install(str(tmp_path / "data"), source=str(tmp_path))
    assert nltk.data.path == before


def test_a_source_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is no folder"):
        nltk_install.install(str(tmp_path / "data"), source=str(tmp_path / "nowhere"))


def test_text_needs_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    nltk.tokenize._get_punkt_tokenizer.cache_clear()
    with pytest.raises(ValueError, match="visvm data nltk DIR"):
        nltk_data.tag("A dog.")
