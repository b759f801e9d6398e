"""The metadata of model cards, as the Hugging Face hub takes it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from visvm import storage
from visvm.training.config import TAGS, CardOptions


def front_matter(
    policy: str, options: CardOptions, *, tags: tuple[str, ...], library: str = "transformers"
) -> str:
    """Return the YAML block of a card, between its two lines of dashes.

    ``policy`` is the model that training began with. Its hub id becomes base_model, and there is none if it
    has no hub id; its licence is taken over unless the options name one.
    """
    base = _base(policy)
    data = ModelCardData(
        base_model=base.base_model,
        datasets=list(options.datasets) or None,
        library_name=library,
        license=options.license or base.license,
        pipeline_tag="image-text-to-text" if "image-captioning" in tags else None,
        tags=[*TAGS, *tags],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def label(policy: str) -> str:
    """Return what a reader of a card may be told of a model's name: its hub id, or its folder's own name."""
    return str(_base(policy).base_model or Path(policy).name)


def _base(name: str) -> ModelCardData:
    """Return what is known of a model: from the card in its directory, or its hub id."""
    if storage.is_remote(name) or Path(name).expanduser().is_dir():
        card = storage.join(name, "README.md")
        found = ModelCard(storage.read(card).decode()).data if storage.is_file(card) else ModelCardData()
        assert isinstance(found, ModelCardData)
        return found
    return ModelCardData(base_model=name if _is_hub_id(name) else None)


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name
