"""Captions and preferences as rows of the data formats of TRL, LLaVA and ShareGPT (LLaMA-Factory)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from visvm.sentences import split_sentences
from visvm.training.preferences import Pair

Kind = Literal["sft", "dpo", "step-dpo", "kto", "trl-prm"]
Row = dict[str, Any]
PAIRED = ("dpo", "step-dpo")
# The folder of each kind's tables in a run folder.
FOLDERS = {"sft": "captions", "dpo": "pairs", "step-dpo": "pairs", "kto": "kto", "trl-prm": "prm"}
META = ("image_id", "uri", "content_hash")  # of every row: which image, and where it was read


def features(kind: Kind) -> Any:
    """Return the ``datasets.Features`` of TRL's rows of a kind."""
    from datasets import Features, Image, List, Value

    text, flag, messages = (
        Value("string"),
        Value("bool"),
        List({"role": Value("string"), "content": Value("string")}),
    )
    pair = {
        **{name: messages for name in ("chosen", "rejected")},
        "step": Value("int32"),
        "prefix": text,
        **{f"{name}_ended": flag for name in ("chosen", "rejected")},
        **{f"{name}_value": Value("float32") for name in ("chosen", "rejected")},
    }
    own: dict[str, Any] = {
        "sft": {"completion": messages, "caption": text, "finish_reason": text},
        "dpo": pair,
        "step-dpo": pair,
        "kto": {"completion": messages, "label": flag},
        "trl-prm": {"completions": List(text), "labels": List(flag)},
    }
    prompt = text if kind == "trl-prm" else messages
    return Features({"images": List(Image()), "prompt": prompt, **own[kind], **dict.fromkeys(META, text)})


def trl_rows(kind: Kind, caption: Mapping[str, Any], pairs: Sequence[Pair]) -> Iterator[Row]:
    """Yield TRL's rows of a caption and its pairs; "images" is left to be added."""
    meta = {name: caption.get(name) for name in META}
    if kind == "trl-prm":
        whole = [(split_sentences(caption["caption"]), True)]
        wrong = [([*split_sentences(one.prefix), one.rejected], False) for one in pairs]
        for steps, label in whole + wrong:
            labels = [True] * (len(steps) - 1) + [label]
            yield {"prompt": caption["prompt"], "completions": steps, "labels": labels, **meta}
        return
    common = {"prompt": [_message("user", caption["prompt"])], **meta}
    if kind == "sft":
        known = {name: caption.get(name) for name in ("caption", "finish_reason")}
        yield {**common, "completion": [_message("assistant", caption["caption"])], **known}
    for pair in pairs:
        sides = {name: [_message("assistant", text)] for name, text in _sides(pair).items()}
        if kind == "kto":
            for name, label in (("chosen", True), ("rejected", False)):
                yield {**common, "completion": sides[name], "label": label}
        else:
            yield {**common, **vars(pair), **sides}


def llava_row(caption: Mapping[str, Any], image: str, number: int) -> Row:
    """Return LLaVA's row of a caption, whose image is the file ``image``."""
    human = {"from": "human", "value": f"<image>\n{caption['prompt']}"}
    answer = {"from": "gpt", "value": caption["caption"]}
    return {"id": f"{caption['image_id']}-{number}", "image": image, "conversations": [human, answer]}


def sharegpt_rows(kind: Kind, caption: Mapping[str, Any], pairs: Sequence[Pair], image: str) -> Iterator[Row]:
    """Yield ShareGPT's rows, as LLaMA-Factory reads them: conversations, images, and the answers compared."""
    human = {"from": "human", "value": f"<image>{caption['prompt']}"}
    if kind == "sft":
        answer = {"from": "gpt", "value": caption["caption"]}
        yield {"conversations": [human, answer], "images": [image]}
    for pair in pairs:
        sides = {name: {"from": "gpt", "value": text} for name, text in _sides(pair).items()}
        if kind == "kto":
            for name, label in (("chosen", True), ("rejected", False)):
                yield {"conversations": [human, sides[name]], "kto_tag": label, "images": [image]}
        else:
            yield {"conversations": [human], **sides, "images": [image]}


def dataset_info(kind: Kind) -> Row:
    """Return LLaMA-Factory's dataset_info.json for data.json of a kind."""
    columns = {"messages": "conversations", "images": "images"}
    columns |= {name: name for name in ("chosen", "rejected") if kind in PAIRED}
    columns |= {"kto_tag": "kto_tag"} if kind == "kto" else {}
    ranking = {"ranking": True} if kind in PAIRED else {}
    return {"visvm": {"file_name": "data.json", "formatting": "sharegpt", **ranking, "columns": columns}}


def _sides(pair: Pair) -> dict[str, str]:
    """Return both answers as a whole: what both begin with has no part in the difference of their odds."""
    return {"chosen": pair.prefix + pair.chosen, "rejected": pair.prefix + pair.rejected}


def _message(role: str, text: str) -> Row:
    return {"role": role, "content": text}
