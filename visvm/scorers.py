"""The scorers that searches need, loaded from the names of their models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from visvm.plugins import load_scorer as load_own
from visvm.records import Branch, Candidate, CandidateScorer, Question, Scorer
from visvm.search.draft import Needs


@runtime_checkable
class Clearable(Protocol):
    """A scorer with caches: ``clear`` makes what comes next independent of what came before."""

    def clear(self) -> None: ...


def load_scorer(
    needs: Needs,
    *,
    reward: dict[str, Any] | None = None,
    value: dict[str, Any] | None = None,
    own: str | None = None,
    policy: Any = None,
) -> Scorer | None:
    """Return the scorer of a search that ``needs`` one, or None.

    ``reward`` and ``value`` are keywords of ``ClipScorer.from_pretrained`` and
    ``ValueScorer.from_pretrained``, or name heads on the states of ``policy``; ``own`` is a scorer of the
    user's, "MODULE:NAME", which replaces both.

    Raises:
        ValueError: a model cannot be loaded, or ``own`` is not a scorer.
    """
    if own is not None:
        return load_own(own)
    if needs == "none":
        return None
    prm = _load_reward(reward, policy) if "reward" in needs else None
    if needs == "reward":
        return prm
    from visvm.value import FutureScorer, ValueScorer

    assert value is not None, f"{needs} needs a value model"
    if is_head(value["name"]):
        return load_head(value, policy)
    learned = ValueScorer.from_pretrained(**value)
    return FutureScorer(prm, learned) if prm else learned


def load_judged(needs: Needs, judges: bool, **models: Any) -> Scorer | None:
    """Return the scorer of a search that ``needs`` one, with ``judges`` one that gives rewards as well.

    ``models`` are the keywords of ``load_scorer``, and so are the errors.
    """
    main = load_scorer(needs, **models)
    if not judges or needs == "reward" or models.get("own") is not None:
        return main
    own = getattr(main, "reward", None)
    judge = own or load_scorer("reward", reward=models["reward"], policy=models.get("policy"))
    assert judge is not None, "a reward model was given"
    return JudgedScorer(main, judge) if main is not None else judge


class JudgedScorer:
    """A ``Scorer`` that answers questions for rewards by ``reward``, and all others by ``main``."""

    def __init__(self, main: Scorer, reward: Scorer) -> None:
        self.main, self.reward = main, reward

    @property
    def is_free(self) -> bool:
        """Whether ``main`` scores candidates by the states they were written with."""
        return isinstance(self.main, CandidateScorer) and self.main.is_free

    def score_candidates(self, branch: Branch, candidates: Sequence[Candidate]) -> list[float]:
        """Return the scores of ``main`` for candidates just proposed."""
        assert isinstance(self.main, CandidateScorer)
        return self.main.score_candidates(branch, candidates)

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Return one float per sentence of each question."""
        answers: dict[int, list[float]] = {}
        for scorer, asks in ((self.main, False), (self.reward, True)):
            places = [i for i, question in enumerate(questions) if question.asks_reward == asks]
            if places:
                answers |= zip(places, scorer.score([questions[i] for i in places]), strict=True)
        return [answers[i] for i in range(len(questions))]

    def clear(self) -> None:
        """Empty the caches of both."""
        clear(self.main)
        clear(self.reward)


def is_head(name: str) -> bool:
    """Return whether a directory holds a head on a policy's states, and not a model of its own."""
    from visvm.value.head import head_config

    return head_config(name) is not None


def load_head(head: dict[str, Any], policy: Any, *, output: str = "value") -> Any:
    """Return the scorer of the head with that ``name`` on a policy; ValueError if it is another policy's."""
    from visvm.value.head import ValueHead
    from visvm.value.head_scorer import HeadScorer

    if not hasattr(policy, "states"):
        raise ValueError(
            f"{head['name']} is a head: it reads states that a policy behind a server does not give"
        )
    loaded = ValueHead.from_pretrained(head["name"])
    return HeadScorer(loaded, policy, output=output, centre=head.get("centre"))


def clear(scorer: Scorer | None) -> None:
    """Empty the caches of a scorer that has any."""
    if isinstance(scorer, Clearable):
        scorer.clear()


def _load_reward(reward: dict[str, Any] | None, policy: Any) -> Any:
    from visvm.reward import ClipScorer

    assert reward is not None, "this search needs a reward model"
    if is_head(reward["name"]):
        return load_head(reward, policy, output="reward")
    return ClipScorer.from_pretrained(**reward)
