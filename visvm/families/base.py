"""A vision-language model of any family: its inputs, and how its image part is read.

The model itself merges the inputs of the image part, with its own mask, positions and features; the keys
and values of each layer are recorded meanwhile. All that follows an image is run by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn

from visvm.engine.attention import recording, use_row_attention
from visvm.engine.kv import Layout
from visvm.engine.row_state import RowStates, Tensors, num_bytes, rows_of, tracking, use_row_states
from visvm.families.conversation import messages
from visvm.families.limits import cap_pixels
from visvm.families.table import MAX_IMAGE_PIXELS, PROMPT_IN_PREFIX
from visvm.families.templates import check_template
from visvm.records import Conversation, DecodedImage, Prompt

Inputs = dict[str, Tensor]  # one image as its processor gives it: a batch of one
Record = Callable[[Sequence[int], int, Tensor, Tensor], None]
BLANK = DecodedImage("", "", "", Image.new("RGB", (112, 112)))
PROBE = "Describe."


class ImageEnd(NamedTuple):
    """What follows an image goes on from: its rotary position, the last hidden state, states of one row."""

    next_position: int
    hidden: Tensor
    states: Tensors


class Family:
    """A VLM's processor and base model (without the language-model head), behind one interface."""

    def __init__(
        self,
        base: Any,
        processor: Any,
        template: Mapping[str, Any] | None = None,
        *,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        """Wrap ``base`` (``LlavaModel``, ...), with options of the chat template; see ``cap_pixels``."""
        self.base: Any = base
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.template = dict(template or {})
        check_template(processor.chat_template, self.template)
        self.language_model: Any = self.base.get_decoder()
        config = self.base.config
        cap_pixels(config, processor, max_pixels)
        self.image_token_id: int = getattr(config, "image_token_id", None) or config.image_token_index
        rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
        self.has_position_axes = "mrope_section" in rope
        self.prompt_in_prefix = config.model_type in PROMPT_IN_PREFIX
        self.prompt_ids = lru_cache(maxsize=64)(self._prompt_ids)
        use_row_attention(self.base)
        self.has_states = use_row_states(self.language_model)

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.base.config.get_text_config()

    @property
    def vision(self) -> nn.Module:
        """The vision encoder, with Qwen's merger but without LLaVA's projector."""
        return self.base.get_encoder(modality="image")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.get_input_embeddings().weight.device

    @cached_property
    def layout(self) -> Layout:
        """The shapes of the keys of each layer, seen while the language model reads one token.

        Raises:
            ValueError: a layer with a window does not tell it to the attention function.
        """
        return probe(self.language_model)

    def inputs(self, image: DecodedImage, prompt: Prompt) -> Inputs:
        """Return the whole conversation up to where the model answers: pixels and token ids, on the CPU.

        The ids are those of ``apply_chat_template(tokenize=True)``.

        Raises:
            ValueError: the chat template refuses the conversation, or a text holds the image's placeholder.
        """
        texts = [turn.text for turn in prompt.turns] if isinstance(prompt, Conversation) else [prompt]
        if any(self._image_token in text for text in texts):
            raise ValueError(f"leave {self._image_token!r} out of the prompt: it stands for an image")
        try:
            return self._process(self._content, image.pil, prompt)
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses this conversation: {error}") from None

    def _process(
        self, content: Callable[[str], Any], pixels: Image.Image, prompt: Prompt, start: str = ""
    ) -> Inputs:
        if self.processor.chat_template is None:
            if isinstance(prompt, Conversation):
                raise ValueError("this model has no chat template: it answers one message of the user's")
            text = self._image_token + prompt + start
            out = self.processor(images=[pixels], text=[text], return_tensors="pt")
        else:
            out = self.processor.apply_chat_template(
                messages(content, prompt, start),
                add_generation_prompt=not start,
                continue_final_message=bool(start),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"images": [pixels]},
                **self.template,
            )
        return {key: value for key, value in out.items() if isinstance(value, Tensor)}

    @cached_property
    def _image_token(self) -> str:
        return self.tokenizer.decode([self.image_token_id])

    @cached_property
    def _content(self) -> Callable[[str], Any]:
        """The form of a message that the chat template takes: a list of parts, or a string.

        Raises:
            ValueError: none of them leads to an image token.
        """
        forms: tuple[Callable[[str], Any], ...] = (
            lambda prompt: [{"type": "image"}, {"type": "text", "text": prompt}],
            lambda prompt: prompt,
            lambda prompt: f"{self._image_token}\n{prompt}",
        )
        for form in forms:
            try:
                ids = self._process(form, BLANK.pil, PROBE)["input_ids"][0].tolist()
            except (TypeError, ValueError, KeyError, AttributeError, IndexError, TemplateError):
                continue
            # A template for strings prints a list as Python would.
            if self.image_token_id in ids and "'type'" not in self.tokenizer.decode(ids):
                return form
        raise ValueError("the processor's chat template has no image placeholder")

    def _split(self, inputs: Inputs) -> int:
        """How many tokens of a conversation are the image part: up to the last image token."""
        ids = inputs["input_ids"][0].tolist()
        return len(ids) if self.prompt_in_prefix else len(ids) - ids[::-1].index(self.image_token_id)

    def prefix_prompt(self, prompt: Prompt) -> Prompt:
        """Return what of a prompt is read with the image: nothing, unless turns come before the image."""
        if self.prompt_in_prefix:
            return prompt
        return prompt.head() if isinstance(prompt, Conversation) and prompt.image_turn else ""

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the tokens between the image part and the answer.

        Raises:
            ValueError: the chat template puts the prompt before the image, or refuses the conversation.
        """
        inputs, bare = self.inputs(BLANK, prompt), self.inputs(BLANK, self.prefix_prompt(prompt))
        split = self._split(inputs)
        if not self.prompt_in_prefix and not torch.equal(
            inputs["input_ids"][:, :split], bare["input_ids"][:, : self._split(bare)]
        ):
            raise ValueError("the chat template puts the prompt before the image, which is not supported")
        return tuple(inputs["input_ids"][0, split:].tolist())

    def start_ids(self, prompt: Prompt, start: str) -> list[int]:
        """Return the tokens of an answer's ``start``, as the chat template continues a message.

        Where the template would not begin a new answer in the same way, they are those of the text alone.
        """
        if not start:
            return []
        asked = self.inputs(BLANK, prompt)["input_ids"][0].tolist()
        whole = self._process(self._content, BLANK.pil, prompt, start)["input_ids"][0].tolist()
        return whole[len(asked) :] if whole[: len(asked)] == asked else self.text_ids(start)

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that follows other text (no special tokens added)."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def preprocess(
        self, images: Sequence[DecodedImage], prompts: Sequence[Prompt] | None = None
    ) -> list[Inputs]:
        """Return the image part of each conversation, on the CPU.

        ``prompts`` matter only as far as they are read with the image: see ``prefix_prompt``.
        """
        prompts = [""] * len(images) if prompts is None else prompts
        return [self._image_part(self.inputs(*pair)) for pair in zip(images, prompts, strict=True)]

    def _image_part(self, inputs: Inputs) -> Inputs:
        shape, split = inputs["input_ids"].shape, self._split(inputs)
        is_token = {key: x.shape == shape and not x.is_floating_point() for key, x in inputs.items()}
        return {key: x[:, :split] if is_token[key] else x for key, x in inputs.items()}

    def read(self, inputs: Sequence[Inputs], record: Record) -> list[ImageEnd]:
        """Run image parts as the model does; gradients flow unless switched off.

        ``record(members, layer, key, value)`` gets what each layer computes for some of them (same length)
        [members, kv heads, P, D]. Returns how each ends.
        """
        ends: list[Any] = [None] * len(inputs)
        for members in _alike(inputs):
            batch = self.to_device(
                {key: torch.cat([inputs[i][key] for i in members]) for key in inputs[members[0]]}
            )

            def keep(module: Any, key: Tensor, value: Tensor, _: Any, members: list[int] = members) -> None:
                record(members, module.layer_idx, key, value)

            states = RowStates()
            with recording(keep), tracking(states), self._seen_positions() as positions:
                hidden = self.base(**batch, use_cache=False).last_hidden_state
            following = [_next_position(positions[-1], row, hidden.shape[1]) for row in range(len(members))]
            for row, i in enumerate(members):
                ends[i] = ImageEnd(following[row], hidden[row, -1], rows_of(states.after, [row]))
        return ends

    def to_device(self, inputs: Inputs) -> Inputs:
        """Return inputs on the model's device, numbers in its type."""
        weight = self.base.get_input_embeddings().weight
        return {
            key: x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)
            for key, x in inputs.items()
        }

    @contextmanager
    def _seen_positions(self) -> Iterator[list[Tensor | None]]:
        """The positions that the language model is given meanwhile."""
        seen: list[Tensor | None] = []

        def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen.append(kwargs.get("position_ids"))

        handle = self.language_model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    def text_inputs(self, tokens: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Return what the language model takes for tokens [R, L] at rotary positions [R, L]."""
        axes = positions.expand(3, -1, -1) if self.has_position_axes else positions
        return {"input_ids": tokens, "position_ids": axes, "attention_mask": _no_mask(tokens.device)}


def _no_mask(device: torch.device) -> Tensor:
    """A mask of four dimensions, which keeps transformers from building its own."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def probe(language_model: Any) -> Layout:
    """Return the layout of a language model's keys; see ``Family.layout``."""
    keys: dict[int, Tensor] = {}
    kinds = getattr(language_model.config, "layer_types", None) or []

    def keep(module: Any, key: Tensor, value: Tensor, options: dict[str, Any]) -> None:
        keys[module.layer_idx] = key
        is_windowed = module.layer_idx < len(kinds) and kinds[module.layer_idx] == "sliding_attention"
        if is_windowed and options.get("sliding_window") is None:
            raise ValueError(f"{type(module).__name__} hides its sliding window, which is not supported")

    token = torch.zeros(1, 1, dtype=torch.long, device=language_model.get_input_embeddings().weight.device)
    states = RowStates()
    with torch.no_grad(), recording(keep), tracking(states):
        language_model(input_ids=token, attention_mask=_no_mask(token.device), use_cache=False)
    return Layout.of(keys, state_bytes=num_bytes(states.after))


def _alike(inputs: Sequence[Inputs]) -> list[list[int]]:
    """The indices of inputs, those together that can be one batch without padding."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(inputs):
        shapes = tuple((key, value.shape) for key, value in sorted(one.items()))
        groups.setdefault((shapes, tuple(one["input_ids"][0].tolist())), []).append(i)
    return list(groups.values())


def _next_position(positions: Tensor | None, row: int, length: int) -> int:
    """The rotary position after a row of positions [R, P] or [axes, R, P]; without any, after all tokens."""
    if positions is None:
        return length
    # A fourth axis, where there is one, comes first and counts tokens.
    rows = positions[-3:] if positions.ndim == 3 else positions[None]
    return int(rows[:, min(row, rows.shape[1] - 1)].max()) + 1
