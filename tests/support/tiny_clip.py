"""A random CLIP with 60 thousand weights, saved as a directory for open_clip."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CONTEXT_LENGTH = 12
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-\" "


def make_clip(folder: Path, *, siglip: bool = False, seed: int = 0) -> Path:
    """Write open_clip_config.json, open_clip_model.safetensors and a tokenizer to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    num_words = _save_tokenizer(folder)
    config = _config(num_words) | ({"init_logit_bias": -10, "custom_text": True} if siglip else {})
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _config(num_words: int) -> dict[str, object]:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": num_words,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "local",
    }
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


def _save_tokenizer(folder: Path) -> int:
    # The end token has the highest id: CLIP's text encoder reads its feature at argmax(ids).
    words = ["<pad>", "<unk>", *LETTERS, "<start>", "<end>"]
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return len(words)
