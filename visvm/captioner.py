"""Captions from Python, in this process and without Ray: ``visvm.load(...).caption(image)``."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from visvm import models
from visvm.image_input import ImageLike, read_image
from visvm.plugins import check_scorer
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import Caption, DecodedImage, Policy, Question, Request, Scorer, TraceStep
from visvm.scorers import clear, load_judged
from visvm.search import SearchConfig, SentenceSearch, find_method, make_search
from visvm.search.draft import Needs
from visvm.search.scheduler import SearchTask, run_tasks

WORLD_ONLY = (
    "the embedded models know only drawings of their own world, and this image is none: for photos give a"
    " real VLM, such as policy llava-hf/llava-v1.6-mistral-7b-hf"
)


@dataclass(frozen=True)
class SentenceChoice:
    """A sentence of a caption as it was chosen; ``trace`` holds the candidates if there were several."""

    text: str
    trace: TraceStep | None = None

    @property
    def value(self) -> float | None:
        """The score of the sentence when it was chosen."""
        return self.trace.values[self.trace.choice] if self.trace else None


@dataclass(frozen=True)
class ScorerOptions:
    """The models that scorers are made of: names as ``visvm.load`` takes them, and how to load them."""

    policy: str
    reward: str
    value: str | None
    loading: Mapping[str, str]
    centre: float | None = None

    def load(self, needs: Needs, policy: Policy, *, judges: bool) -> Scorer | None:
        """Return a new scorer for a search that ``needs`` one; ValueError if a model is missing.

        Heads read the states of ``policy``; with ``judges`` it gives rewards too.
        """
        reward = value = None
        if "reward" in needs or judges:
            name = models.check_reward(self.reward, policy=self.policy)
            reward = {"name": name, **self.loading}
        if needs in ("value", "reward+future"):
            predict = "value" if needs == "value" else "future"
            name = models.check_value(self.value, policy=self.policy, predict=predict)
            value = {"name": name, "centre": self.centre, **self.loading}
        return load_judged(needs, judges, reward=reward, value=value, policy=policy)


class Captioner:
    """A policy and the scorers that guide it; scorers are loaded when they are first needed.

    Not thread-safe: one caption at a time. ``visvm.load`` makes one from the names of models.
    """

    def __init__(self, policy: Policy, options: ScorerOptions, *, scorer: Scorer | None = None) -> None:
        """``scorer`` replaces those of ``options``."""
        self.policy, self.options, self.scorer = policy, options, scorer
        self._is_world = models.is_world(options.policy)
        self._scorers: dict[tuple[Needs, bool], Scorer | None] = {}
        self._current: Generator[None, None, None] | None = None  # the caption being written

    def caption(
        self,
        image: ImageLike,
        method: str | SentenceSearch = "visvm",
        *,
        prompt: str = DETAIL_PROMPTS[0],
        seed: int = 0,
        **options: Any,
    ) -> Caption:
        """Return the caption of an image: ``.text``, ``.sentences``, ``.values``, ``.trace``, ``.cost``.

        ``image`` is a path, a URI (s3://...), a data: URL, the bytes of a file, or a PIL image. ``method``
        is a name of ``visvm.METHODS``, "MODULE:NAME", or a ``SentenceSearch``; ``options`` are fields of
        ``visvm.SearchConfig`` (step_size=2). The text is that of ``visvm caption`` for the same file,
        prompt and seed.

        Raises:
            ValueError: the image, the method, an option or a model cannot be used, with the reason.
        """
        task, scorer = self._task(image, method, prompt=prompt, seed=seed, **options)
        for _ in self._run(task, scorer):
            pass
        return _result(task)

    def stream(
        self,
        image: ImageLike,
        method: str | SentenceSearch = "visvm",
        *,
        prompt: str = DETAIL_PROMPTS[0],
        seed: int = 0,
        **options: Any,
    ) -> SentenceStream:
        """Yield each sentence of the caption as it is chosen; arguments and errors as ``caption``.

        Methods that sample whole captions (best_of_n, sample) yield all sentences at the end.
        """
        task, scorer = self._task(image, method, prompt=prompt, seed=seed, **options)
        return SentenceStream(task, self._run(task, scorer))

    def score(
        self,
        image: ImageLike,
        sentences: Sequence[str],
        *,
        method: str = "visvm",
        prompt: str = DETAIL_PROMPTS[0],
        prefix: Sequence[str] = (),
    ) -> list[float]:
        """Return one score for each sentence, by the scorer of ``method``: the higher, the better.

        "visvm" scores by the value model, "prm" by the reward model. ``prefix`` are the sentences before.

        Raises:
            ValueError: the image or a model cannot be used, or ``method`` has no scorer.
        """
        if isinstance(sentences, str):
            raise ValueError("sentences is one str; expected a list of sentences")
        if (scorer := self._scorer(method)) is None:
            raise ValueError(f"method {method!r} has no scorer")
        given = (self._decode(image), prompt, tuple(prefix), tuple(sentences), (False,) * len(sentences))
        return scorer.score([Question(*given)])[0] if sentences else []

    def _task(
        self, image: ImageLike, method: str | SentenceSearch, *, prompt: str, seed: int, **options: Any
    ) -> tuple[SearchTask[Caption], Scorer | None]:
        search = self._search(method, options)
        unit = options.get("unit", "sentence")
        task = SearchTask(Request(self._decode(image), prompt, seed, unit=unit), search.write)
        return task, self._scorer(method, judges=search.judges)

    def _search(self, method: str | SentenceSearch, options: Mapping[str, Any]) -> SentenceSearch:
        if isinstance(method, SentenceSearch):
            if options:
                raise ValueError(f"{', '.join(options)}: give options of a search object to its class")
            return method
        if not isinstance(method, str):
            raise ValueError(f"method = {method!r}: expected a name, MODULE:NAME or a SentenceSearch object")
        if "centre" in options:
            raise ValueError("centre: give it to visvm.load, for it concerns the scorers too")
        try:
            return make_search(method, SearchConfig(centre=self.options.centre or 0.0, **options))
        except ValidationError as error:
            what = "; ".join(f"{one['loc'][0]} = {one['input']!r}: {one['msg']}" for one in error.errors())
            raise ValueError(f"options of {method}: {what}") from None

    def _scorer(self, method: str | SentenceSearch, *, judges: bool = False) -> Scorer | None:
        needs = method.needs if isinstance(method, SentenceSearch) else find_method(method).needs
        if self.scorer is not None:
            is_plain = isinstance(method, str) and needs == "none" and ":" not in method
            return None if is_plain and not judges else self.scorer
        if (needs, judges) not in self._scorers:
            self._scorers[needs, judges] = self.options.load(needs, self.policy, judges=judges)
        return self._scorers[needs, judges]

    def _decode(self, image: ImageLike) -> DecodedImage:
        decoded = read_image(image)
        if self._is_world and not is_of_world(decoded):
            warnings.warn(WORLD_ONLY, stacklevel=4)
        return decoded

    def _run(self, task: SearchTask[Caption], scorer: Scorer | None) -> Iterator[None]:
        """Write the caption of ``task``; each step is a turn of the scheduler."""
        clear(scorer)
        started = time.perf_counter()
        if self._current is not None:
            self._current.close()  # a stream that was not read to its end
        self._current = run_tasks(self.policy, scorer, [task])
        yield from self._current
        _result(task).cost.seconds = time.perf_counter() - started


class SentenceStream(Iterator[SentenceChoice]):
    """The sentences of a caption as they are chosen.

    Raises:
        RuntimeError: another caption was begun with the same captioner meanwhile.
    """

    def __init__(self, task: SearchTask[Caption], turns: Iterator[None]) -> None:
        self._task = task
        chosen: deque[SentenceChoice] = deque()
        task.on_step = lambda text, step: chosen.append(SentenceChoice(text, step))
        self._sentences = _sentences(task, turns, chosen)

    @property
    def caption(self) -> Caption | None:
        """The whole caption, once its last sentence is chosen."""
        return self._task.result

    def __next__(self) -> SentenceChoice:
        return next(self._sentences)


def _sentences(
    task: SearchTask[Caption], turns: Iterator[None], chosen: deque[SentenceChoice]
) -> Iterator[SentenceChoice]:
    num_told = 0
    for _ in turns:
        while chosen:
            num_told += 1
            yield chosen.popleft()
    yield from map(SentenceChoice, _result(task).sentences[num_told:])


def load(
    policy: str = "world",
    value: str | None = None,
    *,
    reward: str = "auto",
    scorer: Scorer | None = None,
    **options: Any,
) -> Captioner:
    """Return a captioner with its policy loaded; models are "world", directories, s3:// URIs or hub ids.

    The policy may be the address of a server, "http://HOST/v1#MODEL" (vLLM, SGLang, `visvm serve`).
    ``value`` is the value model of method "visvm" (default: the world's, for its policy), ``reward`` the
    CLIP or SigLIP of "prm" and others ("auto": the one that fits the policy); both may be a head on the
    policy's own states. ``scorer`` is an object of your own that replaces both. ``options``: device ("auto",
    "cpu", "cuda"), dtype ("auto", "float32", ...), centre (see ``ValueScorer``), and fields of
    ``PolicyOptions`` (max_new_tokens, top_p, ...).

    Raises:
        ValueError: a model cannot be found or does not fit, or an option is unknown.
    """
    from visvm.loading import load_policy

    name = models.check_writer(policy)
    if value is not None:
        _check_value(value, policy)
    if scorer is not None:
        check_scorer(scorer, "scorer")
    loading = models.loading_of(options.pop("device", "auto"), options.pop("dtype", "auto"))
    scorers = ScorerOptions(policy, reward, value, loading, options.pop("centre", None))
    try:
        model = load_policy(name, **{**options, **loading})
    except TypeError as error:
        raise ValueError(f"options of load: {error}") from None
    return Captioner(model, scorers, scorer=scorer)


def is_of_world(image: DecodedImage) -> bool:
    """Return whether an image may be a drawing of the embedded world."""
    from visvm.world.rendering import is_drawing

    return is_drawing(image.pil)


def _check_value(value: str, policy: str) -> None:
    predict = models.predicts(models.resolve(value, "value"))
    models.check_value(value, policy=policy, predict=predict)


def _result(task: SearchTask[Caption]) -> Caption:
    if task.error is not None:
        raise task.error
    if task.result is None:
        raise RuntimeError("another caption was begun with this captioner before this one was done")
    return task.result
