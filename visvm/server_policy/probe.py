"""What a server serves, and whether it can serve as a policy; asked once, before any work begins."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from visvm.server_policy.names import address_and_model, api_key

CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
# Servers that read these besides OpenAI's fields: at least one token before the end, the image's name.
_EXTENDED = ("vllm", "sglang")


@dataclass(frozen=True)
class Server:
    """An address, a model that is served there, and who serves it ("vllm", "visvm", ...)."""

    url: str
    model: str
    owner: str = ""

    @property
    def name(self) -> str:
        """Return "URL#MODEL"."""
        return f"{self.url}#{self.model}"

    @property
    def is_extended(self) -> bool:
        """Return whether the server reads min_tokens and the uuid of an image."""
        return self.owner in _EXTENDED


def check_server(name: str) -> str:
    """Return "URL#MODEL" of a server that can be a policy.

    Raises:
        ValueError: it does not answer, does not serve the model, or cannot continue a message.
    """
    server = find_server(name)
    _check_continues(server)
    return server.name


def find_server(name: str) -> Server:
    """Ask a server what it serves; without a model in the name, it must serve one alone.

    Raises:
        ValueError: it does not answer, or does not serve the model.
    """
    import openai

    url, model = address_and_model(name)
    try:
        served = {one.id: one.owned_by for one in _client(url).models.list()}
    except openai.OpenAIError as error:
        raise ValueError(f"policy {url}: no list of models there ({error}); is the address right?") from None
    if not model and len(served) == 1:
        (model,) = served
    if model not in served:
        raise ValueError(f"policy {url} serves {', '.join(sorted(served))}; name one with --policy-model")
    return Server(url, model, served[model])


def _check_continues(server: Server) -> None:
    import openai

    white = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (64, 64), "white"))}}
    question = {"role": "user", "content": [white, {"type": "text", "text": "What is this?"}]}
    messages: Any = [question, {"role": "assistant", "content": "This is a"}]
    try:
        _client(server.url).chat.completions.create(
            model=server.model, messages=messages, max_tokens=1, extra_body=CONTINUE
        )
    except openai.BadRequestError as error:
        raise ValueError(
            f"policy {server.url}: {server.model} cannot continue a message about an image, and search needs"
            f" that (continue_final_message, as vLLM and SGLang have it): {error}"
        ) from None
    except openai.OpenAIError as error:
        raise ValueError(f"policy {server.url}: {server.model} does not answer: {error}") from None


def data_url(image: Image.Image) -> str:
    """Return an image as a data: URL, without loss."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _client(url: str) -> Any:
    import openai

    return openai.OpenAI(base_url=url, api_key=api_key(), max_retries=2, timeout=60)
