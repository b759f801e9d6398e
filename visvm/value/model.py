"""The vision value model: a VLM without its language-model head, and two numbers read at a sentence's end.

model = VisionValueModel.from_pretrained("path or hub id")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec

from visvm.engine.row_state import RowStates, joined, tracking
from visvm.engine.tree_packing import Packed, Recorded, TreeAttention, one_text_a_row
from visvm.families import Family, Inputs, check_supported
from visvm.families.weights import load_weights
from visvm.storage import mirror

State = Literal["sentence", "prefix"]
Predict = Literal["value", "future"]


@strict
class VisionValueConfig(PreTrainedConfig):
    """What a value model was trained to say, beside the configuration of its VLM.

    ``state`` is what it reads behind the image: the sentence (the paper) or all sentences so far.
    The value is the return of (r - reward_centre) / reward_scale with discount ``gamma``, of the
    sentence on (``predict`` "value") or of what follows it ("future"). With ``mark_end`` the
    end-of-text token follows a sentence that ends its caption. See ``visvm.training.td``.
    """

    model_type = "vision_value"
    sub_configs_defaults = {"base_config": SubConfigSpec(config_class=AutoConfig, model_type="llava")}  # noqa: RUF012

    base_config: dict | PreTrainedConfig | None = None
    state: State = "sentence"
    predict: Predict = "value"
    gamma: float = 0.9
    reward_centre: float = 0.0
    reward_scale: float = 1.0
    mark_end: bool = True
    terminal: bool = True

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The configuration of the language model."""
        return self.base_config.get_text_config(*args, **kwargs)  # type: ignore[union-attr]


class Float32Head(nn.Linear):
    """A linear head that stays and computes in float32, whatever the model around it does.

    Values of one step differ by a few percent of their size, less than bfloat16 resolves.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Head:
        return super()._apply(lambda t: fn(t) if t.is_meta else t.to(fn(t).device), recurse)

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float())


class VisionValueModel(PreTrainedModel):
    """A supported VLM's base model and a head for value and length; saved and loaded with its processor."""

    config: VisionValueConfig
    config_class = VisionValueConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = {"head"}  # noqa: RUF012

    def __init__(self, config: VisionValueConfig, *, base: Any = None) -> None:
        super().__init__(config)
        self.base: Any = AutoModel.from_config(config.base_config) if base is None else base
        self.head = Float32Head(config.get_text_config().hidden_size, 2, dtype=torch.float32)
        self.family: Any = None
        self.use_block_mask: bool | None = None  # None: on a GPU
        self.post_init()

    def with_processor(self, processor: Any) -> VisionValueModel:
        """This model, reading images and text through ``processor``."""
        self.family = Family(self.base, processor)
        return self

    @classmethod
    def from_policy(cls, name: str, *, dtype: str = "float32", **config: Any) -> VisionValueModel:
        """A value model with the weights of a policy (directory or hub id) and a head of zeros.

        ``config`` are fields of VisionValueConfig.

        Raises:
            ValueError: the policy cannot be found, or is not of a supported family.
        """
        from visvm.families.loading import load_model  # it imports AutoModel, which imports this module

        policy, processor = load_model(name, dtype=dtype)
        # A copy: a config that takes in another resets its choice of attention.
        own = VisionValueConfig(base_config=policy.config.to_dict(), **config)
        model = cls(own, base=policy.model)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model.with_processor(processor)

    @classmethod
    def from_pretrained(cls, name: Any, **kwargs: Any) -> VisionValueModel:  # type: ignore[override]
        """Load a directory or hub id: weights, head and processor.

        Raises:
            ValueError: it cannot be found, is not a value model, or its weights are not whole.
        """
        check_value_model(str(name))
        folder = mirror.local(str(name))
        model = load_weights(super().from_pretrained, folder, **kwargs)
        return model.with_processor(AutoProcessor.from_pretrained(folder, trust_remote_code=False))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write config.json, safetensors and the processor's files to a folder."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.family.processor.save_pretrained(save_directory)

    @property
    def reader(self) -> StateReader:
        """How this model reads a sentence."""
        return StateReader(self.config, self.family.tokenizer)

    def forward(self, inputs: list[Inputs], packed: Packed) -> Tensor:
        """Return value and length at every read of ``packed``, [reads, 2] float32.

        ``inputs`` are the images as ``Family.preprocess`` gives them.
        """
        images = Recorded(len(inputs))
        ends = self.family.read(inputs, images.record)
        lengths = [one["input_ids"].shape[1] for one in inputs]
        states = RowStates()
        if self.family.has_states:  # such layers read a row from left to right: each text has its own
            packed, behind = one_text_a_row(packed)
            images, ends, lengths = (
                images.select(behind),
                [ends[i] for i in behind],
                [lengths[i] for i in behind],
            )
            states = RowStates(joined([end.states for end in ends]))
        starts = torch.tensor([end.next_position for end in ends], device=packed.depths.device)
        # Flex attention has no backward on the CPU.
        blocks = starts.device.type == "cuda" if self.use_block_mask is None else self.use_block_mask
        trees = TreeAttention(images, lengths, packed, use_blocks=blocks)
        given = self.family.text_inputs(packed.tokens, starts[:, None] + packed.depths)
        with tracking(states):
            out = self.family.language_model(**given, use_cache=False, rows=trees)
        return self.head(out.last_hidden_state[packed.rows, packed.columns])


AutoConfig.register(VisionValueConfig.model_type, VisionValueConfig)
AutoModel.register(VisionValueConfig, VisionValueModel)


def check_value_model(name: str) -> VisionValueConfig:
    """The configuration of a saved value model.

    Raises:
        ValueError: the directory or hub id cannot be read, or holds another kind of model.
    """
    try:
        config = AutoConfig.from_pretrained(mirror.settings(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read a value model at {name!r}: {str(error).splitlines()[0]}") from None
    if not isinstance(config, VisionValueConfig):
        raise ValueError(f"{name!r} holds a {config.model_type!r} model, not a value model")
    check_supported(config.base_config)
    return config


class StateReader:
    """The tokens of a state: what the value model reads behind the image."""

    def __init__(self, config: VisionValueConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.end_id: int = tokenizer.eos_token_id

    def sentence_ids(self, sentence: str, ended: bool) -> tuple[int, ...]:
        """The tokens of one sentence; end-of-text follows where the caption ends with it."""
        ids = self.tokenizer(sentence.strip(), add_special_tokens=False).input_ids
        return (*ids, self.end_id) if ended and self.config.mark_end else tuple(ids)
