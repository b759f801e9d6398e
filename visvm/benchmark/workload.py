"""How much is asked of every program: as many sentences, of the same lengths, whatever the weights say."""

from __future__ import annotations

import random
from dataclasses import dataclass

from visvm.benchmark.sizes import WORDS
from visvm.prompts import DETAIL_PROMPTS
from visvm.search.draft import TEMPERATURES

SPREAD = (0.4, 0.6, 0.76, 0.88, 1.0, 1.12, 1.4, 1.84)  # natural lengths, as shares of the mean
LENGTHS = ("forced", "natural")


@dataclass(frozen=True)
class Workload:
    """A caption's sentences and their tokens, what is made of one image, and how many are searched."""

    num_sentences: int = 8
    sentence_length: int = 25
    temperatures: tuple[float, ...] = (0.0, *TEMPERATURES)
    lengths: str = "forced"
    num_prompts: int = 9
    num_responses: int = 5
    response_length: int = 100
    num_images: int = 1

    @property
    def caption_length(self) -> int:
        """Tokens of a whole caption, on average."""
        return self.num_sentences * self.sentence_length

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the rollouts."""
        return DETAIL_PROMPTS[: self.num_prompts]

    def length(self, written: int, first_token: int) -> int:
        """Tokens of the sentence that begins with that token after so many; all programs ask here.

        "forced": always the mean. "natural": spread as SPREAD around it.
        """
        if self.lengths == "forced":
            return self.sentence_length
        share = SPREAD[(7 * written + first_token) % len(SPREAD)]
        return max(1, round(share * self.sentence_length))

    def sentences(self, count: int, *, seed: int) -> tuple[str, ...]:
        """Texts of ``sentence_length`` tokens each: words and a full stop."""
        rng = random.Random(seed)
        return tuple(" ".join(rng.choices(WORDS, k=self.sentence_length - 1)) + "." for _ in range(count))
