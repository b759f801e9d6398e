"""Request bodies: their schema, and the checked specification of the captions they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from visvm.chat.errors import ChatError
from visvm.chat.messages import Message, read_messages
from visvm.config import Config
from visvm.records import Prompt
from visvm.search import METHODS, SearchConfig, SentenceSearch, Stepwise, find_method, make_search
from visvm.search.draft import TEMPERATURES
from visvm.search.stepwise import MOST_CANDIDATES

MODELS = ("policy", "policy+search")
LOWEST_TEMPERATURE = 0.01  # logits are divided by the temperature; a lower one means greedy
# Fields of OpenAI's that change the answer and are not served, with the values that change nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"], []),
    "audio": (),
}
Temperature = Annotated[float, Field(ge=LOWEST_TEMPERATURE, le=2)]


class ChatLimits(Config):
    """Upper limits of one request."""

    max_tokens: int = Field(512, ge=1, description="tokens per caption; larger requests are lowered")
    max_sentences: int = Field(64, ge=1, description="sentences per caption; larger requests are lowered")
    max_candidates: int = Field(128, ge=1, description="candidates per sentence, summed over all n captions")
    max_n: int = Field(8, ge=1, description="captions")
    max_prompt_chars: int = Field(4000, ge=1, description="characters of the prompt")
    max_prompt_tokens: int = Field(1024, ge=1, description="tokens of the prompt, the template's included")


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = None


class SearchOptions(SearchConfig):
    """Search options, in ranges that are safe to serve."""

    model_config = ConfigDict(allow_inf_nan=False)

    method: str | None = Field(None, description="one of GET /v1/models; else the server's default")
    trace: bool = Field(False, description="report every candidate, its value, the choices and the cost")
    temperatures: tuple[Temperature, ...] = Field(
        TEMPERATURES, min_length=1, max_length=64, description="sampling temperatures of the candidates"
    )
    temperature: Temperature = Field(0.7, description="sample, particles, and the oracle's completions")
    exploration: float = Field(1.0, ge=0, le=100, description="mcts: weight of little-visited sentences")
    centre: float = Field(0.0, ge=-1, le=1, description="oracle: taken off every reward")


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    Field(max_length=16, description="the caption ends before the first of these texts"),
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions. Of OpenAI's other fields, ``UNSUPPORTED`` are refused."""

    model_config = ConfigDict(allow_inf_nan=False, extra="allow")

    model: str = Field(json_schema_extra={"enum": list(MODELS)})
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2, description="of policy; 0 (default) is greedy")
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, description="captions; caption i has seed + i")
    seed: int | None = Field(None, ge=-(2**62), lt=2**62)
    stop: Annotated[Stops | None, BeforeValidator(_as_list, json_schema_input_type=Stops | str | None)] = None
    continue_final_message: bool | None = Field(
        None, description="false: do not continue the assistant's last"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    visvm: SearchOptions | None = None


@dataclass(frozen=True)
class CaptionSpec:
    """A checked request for ``len(seeds)`` captions of the image at ``url``."""

    url: str
    prompt: Prompt
    method: str
    search: SearchConfig
    seeds: tuple[int, ...]
    max_tokens: int
    trace: bool
    start: str = ""
    stop: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None  # what is promised of the captions

    def calibrated(self, calibration: Mapping[str, Any]) -> CaptionSpec:
        """Return the request with sentences below the calibration's threshold dropped, and its promise."""
        search = self.search.model_copy(update={"drop_below": calibration["tau"]})
        return replace(self, search=search, calibration=calibration)


def read_spec(request: ChatRequest, limits: ChatLimits, methods: Sequence[str]) -> CaptionSpec:
    """Check ``request`` and return what it asks for; ``methods`` are those served, the default first.

    Raises:
        ChatError: it asks for something that is not served, or exceeds ``limits``.
    """
    _check_fields(request.model_extra or {})
    options = request.visvm or SearchOptions.model_validate({})
    url, prompt, start = read_messages(request.messages, continues=request.continue_final_message)
    _check_length(request.messages, limits)
    method, search = _read_method(request, options, methods)
    n, seed = request.n or 1, request.seed or 0
    if n > limits.max_n:
        raise ChatError(400, f"n is {n}; at most {limits.max_n} captions are served at a time", param="n")
    _check_candidates(method, search, n, limits)
    _check_rewards(method, search, methods)
    wanted = request.max_completion_tokens or request.max_tokens or limits.max_tokens
    sentences = _max_sentences(search, limits)
    return CaptionSpec(
        url=url,
        prompt=prompt,
        method=method,
        search=search.model_copy(update={"max_sentences": sentences}),
        seeds=tuple(range(seed, seed + n)),
        max_tokens=min(wanted, limits.max_tokens),
        trace=options.trace,
        start=start,
        stop=tuple(request.stop or ()),
    )


def _max_sentences(search: SearchConfig, limits: ChatLimits) -> int | None:
    """Return the limit of sentences; of other units the limit of tokens alone bounds the number."""
    if search.unit != "sentence":
        return search.max_sentences
    return min(search.max_sentences or limits.max_sentences, limits.max_sentences)


def _check_fields(extra: dict[str, Any]) -> None:
    for name, neutral in UNSUPPORTED.items():
        if extra.get(name) is not None and extra[name] not in neutral:
            raise ChatError(400, f"{name} is not supported", param=name, code="unsupported_parameter")


def _check_length(messages: Sequence[Message], limits: ChatLimits) -> None:
    length = sum(len(message.text) for message in messages)
    if length > limits.max_prompt_chars:
        what = f"the prompt has {length} characters, at most {limits.max_prompt_chars} are served"
        raise ChatError(400, what, param="messages")


def _read_method(
    request: ChatRequest, options: SearchOptions, methods: Sequence[str]
) -> tuple[str, SearchConfig]:
    """Return (the search method, its options)."""
    if request.model not in MODELS:
        raise no_such_model()
    search = SearchConfig(**{name: getattr(options, name) for name in SearchConfig.model_fields})
    if request.model == "policy":
        temperature = request.temperature or 0.0
        if temperature < LOWEST_TEMPERATURE:
            return "greedy", search
        return "sample", search.model_copy(update={"temperature": temperature})
    method = options.method or methods[0]
    if method not in methods:
        what = f"visvm.method: this server has {', '.join(methods)}"
        raise ChatError(400, what, param="visvm.method")
    return method, search


def no_such_model() -> ChatError:
    """Return the error for a model that is not served."""
    what = f"no such model; expected one of {', '.join(MODELS)}"
    return ChatError(404, what, param="model", code="model_not_found")


def _check_candidates(method: str, search: SearchConfig, n: int, limits: ChatLimits) -> None:
    num = n * num_candidates(method, search)
    if num > limits.max_candidates:
        what = (
            f"{method} with these options takes {num} candidates, at most {limits.max_candidates} are served"
        )
        raise ChatError(400, what, param="visvm")


def _check_rewards(method: str, search: SearchConfig, methods: Sequence[str]) -> None:
    if make_search(method, search).judges and "prm" not in methods:
        what = "min_reward, drop_below and filter need a reward model, and this server has none"
        raise ChatError(400, what, param="visvm")


def num_candidates(method: str, search: SearchConfig) -> int:
    """Count the candidates that are generated per choice, of a sentence or of a whole caption."""
    num_temperatures = len(search.temperatures)
    step = 1 + search.step_size * num_temperatures
    if search.min_reward is not None and find_method(method).search is Stepwise:
        return step * MOST_CANDIDATES
    by_method = {
        "greedy": 1,
        "sample": 1,
        "filter": 1,
        "best_of_n": num_temperatures * search.samples_per_temperature,
        "best_of_n_value": num_temperatures * search.samples_per_temperature,
        "particles": search.particles,
        "mcts": step * search.simulations,
        "mcts_value": step * search.simulations,
        "oracle": step * (1 + search.completions),
    }
    return by_method.get(method, step * search.beam_width)


def search_of(spec: CaptionSpec) -> SentenceSearch:
    """Return the search that writes the captions of ``spec``."""
    return make_search(spec.method, spec.search)


def served_methods(needs: Sequence[str]) -> list[str]:
    """Return the search methods whose scorer is among ``needs``, the best first."""
    best = ("visvm", "reward_plus_future", "prm")
    names = [name for name, method in METHODS.items() if method.needs in needs]
    return sorted(names, key=lambda name: best.index(name) if name in best else len(best))
