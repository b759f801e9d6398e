"""A head as a scorer: by the states of candidates as they are written, or by reading sentences again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visvm.engine import Prefix
from visvm.records import Branch, Candidate, DecodedImage, Prompt, Question
from visvm.value.head import Reads, ValueHead, fingerprint

if TYPE_CHECKING:
    from visvm.policy import SharedPrefixPolicy

MAX_TEXTS = 256  # read in one pass: bounds what a pass takes beside the stored images


class HeadScorer:
    """A ``Scorer`` on the hidden states of ``policy``, which must be the one the head was trained on.

    ``output`` "value" gives V, read behind the sentence in its caption; "reward" gives the reward r, read
    behind image and sentence alone. Values of candidates that the policy has just written need no pass at all
    (``score_candidates``). ``centre`` is the reward at which a sentence is worth nothing.

    Raises:
        ValueError: the head belongs to another policy.
    """

    def __init__(
        self,
        head: ValueHead,
        policy: SharedPrefixPolicy,
        *,
        output: str = "value",
        centre: float | None = None,
    ) -> None:
        if fingerprint(policy.family.base) != head.config.fingerprint:
            raise ValueError(
                f"this head was trained on the states of {head.config.policy!r}, and this policy has other"
                " weights: train a head for it (visvm train-value --kind head)"
            )
        self.head, self.policy, self.output = head, policy, output
        self.centre = head.config.reward_centre if centre is None else centre

    def clear(self) -> None:
        """Do nothing: the images are stored by the policy."""

    @property
    def is_free(self) -> bool:
        """Whether candidates are scored by ``score_candidates``."""
        return self.output == "value"

    @torch.inference_mode()
    def score_candidates(self, branch: Branch, candidates: Sequence[Candidate]) -> list[float]:
        """Return V of candidates of one step, by the states they were written with.

        A candidate that was cut by the limit of tokens is judged by its last token but one.
        """
        states = self.policy.states(branch, candidates)
        ended = torch.tensor([one.is_last for one in candidates], device=states.device)
        outputs = self.head.outputs(states, "prefix")
        return self.head.values(outputs, ended, centre=self.centre).tolist()

    @torch.inference_mode()
    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Return V or r of every sentence of each question, read by the policy behind its stored images."""
        states = read_states(self.policy, questions, "prefix" if self.output == "value" else "sentence")
        return [self._answer(question, own) for question, own in zip(questions, states, strict=True)]

    def _answer(self, question: Question, states: Tensor) -> list[float]:
        if self.output == "reward":
            return self.head.outputs(states, "sentence")[:, 0].tolist()
        ended = torch.tensor(question.ended, device=states.device)
        return self.head.values(self.head.outputs(states, "prefix"), ended, centre=self.centre).tolist()


@torch.inference_mode()
def read_states(policy: SharedPrefixPolicy, questions: Sequence[Question], reads: Reads) -> list[Tensor]:
    """Return the hidden state behind the last token of every sentence, [sentences, hidden] a question.

    Behind the prompt and the sentences before it ("prefix"), or behind the image alone ("sentence").
    """
    prefixes = policy.stored([(question.image, question.prompt) for question in questions])
    behind, texts = [], []
    for question, prefix in zip(questions, prefixes, strict=True):
        before = _prompt(policy, question.prompt) if reads == "prefix" else ()
        for sentence in question.sentences:
            text = "".join((*question.prefix, sentence)) if reads == "prefix" else sentence.strip()
            texts.append([*before, *policy.family.text_ids(text)])
            behind.append(prefix)
    states = _read(policy, behind, texts, [[len(text) - 1] for text in texts])
    return list(torch.cat(states).split([len(question.sentences) for question in questions]))


@torch.inference_mode()
def read_responses(
    policy: SharedPrefixPolicy, image: DecodedImage, prompt: str, responses: Sequence[Sequence[str]]
) -> dict[Reads, Tensor]:
    """Return the states behind all sentences of all responses, by what is read: [sentences, hidden] each.

    Each response is read once, and each distinct sentence alone.
    """
    (stored,) = policy.stored([(image, prompt)])
    before = _prompt(policy, prompt)
    encoded = [_sentence_ends(policy, sentences) for sentences in responses]
    texts = [[*before, *ids] for ids, _ in encoded]
    ends = [[len(before) + end for end in own] for _, own in encoded]
    alone = {text.strip(): i for i, text in enumerate(dict.fromkeys(s.strip() for r in responses for s in r))}
    ids = [policy.family.text_ids(text) for text in alone]
    states = torch.cat(_read(policy, [stored] * len(ids), ids, [[len(text) - 1] for text in ids]))
    return {
        "prefix": torch.cat(_read(policy, [stored] * len(texts), texts, ends)),
        "sentence": states[[alone[text.strip()] for sentences in responses for text in sentences]],
    }


def _prompt(policy: SharedPrefixPolicy, prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens between image and answer; none where the prompt is read with the image."""
    return () if policy.family.prompt_in_prefix else policy.family.prompt_ids(prompt)


def _sentence_ends(policy: SharedPrefixPolicy, sentences: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the tokens of a response, and the place of the last token of each sentence."""
    encoded = policy.family.tokenizer(
        "".join(sentences), add_special_tokens=False, return_offsets_mapping=True
    )
    starts = [start for start, _ in encoded.offset_mapping]
    lengths = accumulate(map(len, sentences))
    return encoded.input_ids, [bisect_left(starts, length) - 1 for length in lengths]


def _read(
    policy: SharedPrefixPolicy,
    behind: Sequence[Prefix],
    texts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Return the hidden states at ``places`` of each row of tokens: [places, hidden] a row."""
    states: list[Tensor] = []
    for start in range(0, len(texts), MAX_TEXTS):
        part = slice(start, start + MAX_TEXTS)
        hidden, _ = policy.engine.read(behind[part], texts[part])
        states += [row[list(own)] for row, own in zip(hidden, places[part], strict=True)]
    return states
