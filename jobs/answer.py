"""Answers to questions about images, for AMBER, POPE and MMHal-Bench: by a policy, or by an endpoint.

--questions is a file of these benchmarks: a JSON list or JSON lines, each with an id, an image and a
query, text or question. --images is the folder of the images they name. In process, the policy answers
with any method of `visvm caption` on Ray; with --endpoint an OpenAI-compatible server answers, such as
`visvm serve` (--model policy+search is guided there). Writes OUT/answers.jsonl. Resumable.

  visvm answer --questions query_all.json --images AMBER/image --method visvm --out runs/answers
  visvm answer --questions pope_random.json --images val2014/ --max-new-tokens 16
    --endpoint http://127.0.0.1:8000/v1 --model policy+search --out runs/answers
"""

from __future__ import annotations

import base64
import logging
import mimetypes
import random
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from jobs import caption
from jobs.caption import CaptionConfig
from jobs.inputs.endpoint import EndpointConfig, ask, write_answers
from jobs.inputs.stamps import model_stamps
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps_of
from jobs.runner.part_files import read_rows
from visvm import storage
from visvm.config import Place

if TYPE_CHECKING:
    import pyarrow as pa

    from visvm.metrics.qa_files import ImageQuestion

logger = logging.getLogger(__name__)


class AnswerConfig(EndpointConfig, CaptionConfig):
    """Configuration of answer: the questions, and who answers."""

    OPERATIONAL = EndpointConfig.OPERATIONAL | CaptionConfig.OPERATIONAL

    questions: str = Field(description="questions about images: JSON list or JSON lines")
    images: Place = Field(  # type: ignore[assignment]
        description="folder of the images that the questions name"
    )
    prompts: str = Field(
        "{question}", description='what is asked, with {question} in it: "{question} Answer yes or no."'
    )

    def inputs(self) -> Inputs:
        """Return the questions, the images and the models; the next run may have other questions."""
        places = [storage.absolute(self.questions), storage.absolute(self.images)]
        return Inputs(free=stamps_of(places), fixed=model_stamps(self))

    @field_validator("prompts")
    @classmethod
    def _is_prompt(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("expected a text with {question} in it")
        return value


def work(config: AnswerConfig) -> dict[str, Any]:
    """Answer every question and write the answers in their order."""
    asked = _draw(config)
    out = storage.absolute(config.out)
    answers = _by_endpoint(config, asked, out) if config.endpoint else _by_policy(config, asked, out)
    rows = {
        one.id: {"image": one.image, "question": one.text, "response": answers[one.id]}
        for one in asked
        if one.id in answers
    }
    write_answers(out, rows)
    if len(rows) < len(asked):
        missing = len(asked) - len(rows)
        logger.warning("%d of %d questions have no answer: see %s/errors", missing, len(asked), out)
    return {"num_questions": len(asked), "num_answers": len(rows)}


def _draw(config: AnswerConfig) -> list[ImageQuestion]:
    """Return the questions of the file, of --shard those on its images, and so many as --sample says."""
    from jobs.inputs.sources import in_shard
    from visvm.metrics.qa_files import read_questions

    asked = [one for one in read_questions(config.questions) if in_shard(one.image, config.shard)]
    if config.sample is None or config.sample >= len(asked):
        return asked
    return [asked[i] for i in sorted(random.Random(config.seed).sample(range(len(asked)), config.sample))]


def _by_policy(config: AnswerConfig, asked: Sequence[ImageQuestion], out: str) -> dict[str, str]:
    """Answer on Ray, as captions whose prompts are the questions."""
    from jobs.pipeline.execution import write_units
    from jobs.runtime import ray_setup
    from visvm.schemas import CAPTIONS

    models = caption.check_models(config)
    caption.note_strange_images(config.policy, [_uri(config, one) for one in asked[: caption.NUM_SHOWN]])
    ray_setup.start(config)
    stages = caption.make_stages(config, models, ray_setup.loading(config.device, config.dtype))
    write_units(_units(config, asked), f"{out}/captions", CAPTIONS, stages=stages, config=config)
    return {row["id"]: row["caption"].strip() for row in read_rows(f"{out}/captions")}


def _units(config: AnswerConfig, asked: Sequence[ImageQuestion]) -> pa.Table:
    import pyarrow as pa

    from actors.batch.rows import UNITS

    rows = [
        {"id": one.id, "image_id": one.id, "uri": _uri(config, one), "prompt": _prompt(config, one)}
        for one in asked
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def _by_endpoint(config: AnswerConfig, asked: Sequence[ImageQuestion], out: str) -> dict[str, str]:
    """Answer by a server: one request per question, the image with it."""
    conversations = {one.id: partial(_messages, config, one) for one in asked}
    options = {"max_tokens": config.max_new_tokens, "seed": config.seed % 2**31, "temperature": 0.0}
    replies = ask(config, f"{out}/replies", conversations, **options)
    return {key: reply.strip() for key, reply in replies.items()}


def _messages(config: AnswerConfig, one: ImageQuestion) -> list[dict[str, Any]]:
    from visvm import images

    uri = _uri(config, one)
    kind = mimetypes.guess_type(uri)[0] or "image/jpeg"
    url = f"data:{kind};base64,{base64.b64encode(images.read(uri)).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": _prompt(config, one)}]}]


def _uri(config: AnswerConfig, one: ImageQuestion) -> str:
    """Return where the image of a question is; of one that is named by a URL the last part counts."""
    name = one.image.rpartition("/")[2] if "://" in one.image else one.image
    return storage.join(storage.absolute(config.images), name)


def _prompt(config: AnswerConfig, one: ImageQuestion) -> str:
    return config.prompts.replace("{question}", one.text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(AnswerConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
