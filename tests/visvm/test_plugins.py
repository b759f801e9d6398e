"""A scorer and a search of the user's own, by MODULE:NAME."""

import sys
from pathlib import Path

import pytest

from tests.support.fakes import FakePolicy, request
from tests.support.own import ShortestFirst, TwoSentences, Undecided
from visvm.plugins import load_object, load_scorer
from visvm.search import SearchConfig, find_method, make_search

OWN = "tests.support.own"


@pytest.mark.parametrize("name", ["ShortestFirst", "shortest_first"])
def test_a_scorer_is_an_object_or_what_a_class_makes(name: str) -> None:
    assert isinstance(load_scorer(f"{OWN}:{name}"), ShortestFirst)


def test_a_search_gets_the_options_that_it_takes() -> None:
    config = SearchConfig(step_size=3)
    made = [make_search(f"{OWN}:{name}", config) for name in ("TwoSentences", "make_two")]
    assert made == [TwoSentences(step_size=3), TwoSentences(name="made", step_size=3)]
    assert find_method(f"{OWN}:TwoSentences").needs == "reward"
    assert find_method(f"{OWN}:make_two").needs == "none"


def test_an_own_search_writes_by_an_own_scorer() -> None:
    search = make_search(f"{OWN}:TwoSentences", SearchConfig(step_size=4))
    [caption] = search(FakePolicy(), ShortestFirst(), [request()])
    assert caption.method == "two_sentences" and len(caption.sentences) <= 2
    for step in caption.trace:
        assert len(step.candidates) == 5
        lengths = [len(one.text) for one in step.candidates]
        assert lengths[step.choice] == min(lengths)


def test_a_module_of_the_current_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "visvm_test_own.py").write_text("class Inner:\n    value = 7\n")
    assert load_object("visvm_test_own:Inner.value") == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scorer", "expected MODULE:NAME"),
        (":Name", "expected MODULE:NAME"),
        ("no_such_module_here:Name", "cannot be imported"),
        (f"{OWN}:Missing", "cannot be imported"),
        (f"{OWN}:number", "int is not a scorer"),
        (f"{OWN}:make_nothing", "NoneType is not a scorer"),
        (f"{OWN}:TwoSentences", "TwoSentences is not a scorer"),
    ],
)
def test_what_is_no_scorer_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_scorer(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beam", "expected one of greedy"),
        (f"{OWN}:number", "expected a subclass"),
        (f"{OWN}:make_nothing", "NoneType is not a visvm.search.SentenceSearch"),
        (f"{OWN}:ShortestFirst", "ShortestFirst is not a visvm.search.SentenceSearch"),
        ("tests.support.own:Missing", "cannot be imported"),
    ],
)
def test_what_is_no_search_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_search(spec, SearchConfig())


def test_a_scorer_that_scores_too_few_is_an_error_and_no_shift() -> None:
    with pytest.raises(ValueError, match="scores for"):
        make_search("prm", SearchConfig())(FakePolicy(), Undecided(), [request()])
    with pytest.raises(ValueError, match="has no scorer"):
        make_search("prm", SearchConfig())(FakePolicy(), None, [request()])
