"""MMHal-Bench: a judge model rates answers from 0 to 6; score, hallucination rate, and score by type.

--questions is the authors' response_template.json, --answers the same file with "model_answer", or the
folder of `visvm answer`. --prompt is the judge's prompt, a file of yours: the published one is under the
GPL. Replies are kept in OUT/replies: a run that broke off asks only for what is missing. --judged takes
replies that are at hand, as the authors' program saves them.

  visvm mmhal --questions response_template.json --answers runs/answers --prompt judge.txt
    --endpoint http://127.0.0.1:8000/v1 --model judge --out runs/mmhal
  visvm mmhal --judged responses.json --out runs/mmhal
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field

from jobs.inputs.endpoint import EndpointConfig, ask
from jobs.runner.command import run
from visvm import storage

logger = logging.getLogger(__name__)


class MmhalConfig(EndpointConfig):
    """Configuration of mmhal: the answers, and who judges them."""

    out: str = Field(description="run folder: metrics.json, replies/")
    questions: str | None = Field(None, description="questions with their reference answers (JSON)")
    answers: str | None = Field(None, description="answers: a JSON file or the folder of visvm answer")
    prompt: str | None = Field(None, description="file with the judge's prompt: {} four times, or by name")
    judged: str | None = Field(None, description="replies of a judge that are at hand (JSON)")
    num_resamples: int = Field(2000, ge=100, description="bootstrap resamples of the questions")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


def work(config: MmhalConfig) -> dict[str, Any]:
    """Have the answers judged, then summarise the ratings."""
    from visvm.metrics import mmhal
    from visvm.metrics.bootstrap import Resampling

    replies = _at_hand(config.judged) if config.judged else _judge(config)
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    result = mmhal.summary(replies, resampling)
    if result["unparsed"] or result["doubtful"]:
        shares = [100 * result[name] for name in ("unparsed", "doubtful")]
        logger.warning("%.0f %% of replies have no single rating and score 0, %.0f %% are doubtful", *shares)
    low, high = result["score_ci"]
    print(f"score {result['score']:.2f} [{low:.2f}, {high:.2f}] of 6 over {result['num_answers']} answers")
    low, high = result["hallucination_rate_ci"]
    print(f"hallucination rate {result['hallucination_rate']:.2f} [{low:.2f}, {high:.2f}]")
    print("by type: " + ", ".join(f"{name} {one['score']:.2f}" for name, one in result["types"].items()))
    return result | {"ratings": [mmhal.parse_rating(reply) for reply in replies], "judge": config.model}


def _judge(config: MmhalConfig) -> list[str]:
    from visvm.metrics import mmhal
    from visvm.metrics.qa_files import id_of, read_answers, read_records

    if not (config.questions and config.answers and config.prompt):
        raise ValueError("give --questions, --answers and --prompt, or --judged")
    try:
        prompt = storage.read(config.prompt).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the prompt {config.prompt}: {error}") from None
    records = read_records(config.questions)
    ids = [id_of(record, i) for i, record in enumerate(records)]
    answers = dict(read_answers(config.answers))
    if missing := [key for key in ids if key not in answers]:
        count = f"{len(missing)} of {len(ids)} questions"
        raise ValueError(f"{config.answers}: {count} lack an answer, such as {missing[:3]}")
    filled = {
        key: [{"role": "user", "content": mmhal.fill(prompt, record, answers[key])}]
        for key, record in zip(ids, records, strict=True)
    }
    asked = {key: partial(filled.__getitem__, key) for key in ids}
    replies = ask(config, storage.join(storage.absolute(config.out), "replies"), asked, temperature=0.0)
    return [replies[key] for key in ids]


def _at_hand(path: str) -> list[str]:
    from visvm.metrics.qa_files import read_records

    try:
        return [str(one["choices"][0]["message"]["content"] or "") for one in read_records(path)]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"{path}: expected chat completions, choices[0].message.content") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(MmhalConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
