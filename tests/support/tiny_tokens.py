"""Byte-level tokenizers for the tests' small models."""

from __future__ import annotations

from typing import Any

import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.tiny import TEXT


def tokenizer(*special: str, **named: str) -> Any:
    """A byte-level BPE tokenizer with these special tokens, ``named`` ones as attributes, too."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    every = ["<pad>", "<s>", "</s>", *special, *named.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340 + len(every), special_tokens=every, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXT * 3, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[*special, *named.values()],
        padding_side="right",
        extra_special_tokens=named,
    )


def token_id(tok: Any, token: str) -> int:
    return tok.convert_tokens_to_ids(token)
