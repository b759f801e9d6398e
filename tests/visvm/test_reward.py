"""The CLIP reward equals the direct computation, one image and one sentence at a time."""

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from tests.support.tiny_clip import CONTEXT_LENGTH, make_clip
from visvm.records import DecodedImage, Question, Scorer
from visvm.reward import ClipScorer, EmbeddingCache, parse_name

SENTENCES = (" A red car. ", "a cat", "A red car.", "a very long sentence about nothing at all.")


@pytest.fixture(scope="module", params=[False, True], ids=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"), siglip=request.param)


def image(seed: int) -> DecodedImage:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 255, (40, 50, 3), generator=generator, dtype=torch.uint8)
    return DecodedImage(str(seed), f"{seed}.png", f"hash-{seed}", Image.fromarray(values.numpy()))


def question(seed: int, sentences: tuple[str, ...]) -> Question:
    return Question(image(seed), "Describe.", (), sentences, (False,) * len(sentences))


def plain(folder: Path, image: Image.Image, sentence: str) -> float:
    name = f"local-dir:{folder}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    tokens = open_clip.get_tokenizer(name)([sentence.strip()])
    assert tokens.shape == (1, CONTEXT_LENGTH)
    with torch.no_grad():
        seen, read = model.encode_image(preprocess(image)[None]), model.encode_text(tokens)
    return float(torch.cosine_similarity(seen, read))


def test_scores_equal_the_plain_computation(folder: Path) -> None:
    scorer = ClipScorer.from_pretrained(str(folder), batch_size=2)
    assert isinstance(scorer, Scorer)
    scores = scorer.score([question(1, SENTENCES), question(2, SENTENCES[:1]), question(3, ())])
    assert [len(row) for row in scores] == [4, 1, 0]
    for seed, row in ((1, scores[0]), (2, scores[1])):
        expected = [plain(folder, image(seed).pil, s) for s in SENTENCES[: len(row)]]
        assert row == pytest.approx(expected, abs=1e-6)
    assert scores[0][0] == scores[0][2] != scores[0][1]
    assert scorer.score([]) == []


def test_images_and_sentences_are_embedded_once(folder: Path) -> None:
    scorer = ClipScorer.from_pretrained(str(folder))
    seen: list[object] = []
    preprocess, tokenizer = scorer.preprocess, scorer.tokenizer
    scorer.preprocess = lambda image: seen.append("image") or preprocess(image)
    scorer.tokenizer = lambda texts: seen.extend(texts) or tokenizer(texts)
    first = scorer.score([question(1, SENTENCES), question(1, SENTENCES)])
    assert scorer.score([question(1, SENTENCES[:1])])[0][0] == first[1][0] == first[0][0]
    assert seen == ["image", "A red car.", "a cat", SENTENCES[3]]


def test_the_cache_evicts_the_least_recently_used() -> None:
    cache, asked = EmbeddingCache(2), []

    def embed(keys: list[str]) -> torch.Tensor:
        asked.append(keys)
        return torch.tensor([[float(key)] for key in keys])

    assert {k: v.item() for k, v in cache.get(["1", "2", "3"], embed).items()} == {"1": 1, "2": 2, "3": 3}
    cache.get(["2"], embed)
    cache.get(["4", "2", "3"], embed)
    assert asked == [["1", "2", "3"], ["4"]]
    cache.get(["4"], embed)
    assert asked[2:] == [["4"]]


def test_half_precision_stays_close(folder: Path) -> None:
    exact = ClipScorer.from_pretrained(str(folder)).score([question(1, SENTENCES)])[0]
    half = ClipScorer.from_pretrained(str(folder), dtype="bfloat16").score([question(1, SENTENCES)])[0]
    assert half == pytest.approx(exact, abs=0.05)


def test_names() -> None:
    assert parse_name("ViT-L-14-336/openai") == ("ViT-L-14-336", "openai")
    assert parse_name("ViT-B-16-SigLIP/webli") == ("ViT-B-16-SigLIP", "webli")
    assert parse_name("timm/ViT-B-16-SigLIP") == ("hf-hub:timm/ViT-B-16-SigLIP", None)
    assert parse_name("hf-hub:org/repo") == ("hf-hub:org/repo", None)
    with pytest.raises(ValueError, match="'nonsense': expected a directory"):
        parse_name("nonsense")


def test_a_model_that_cannot_be_loaded_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load the reward model"):
        ClipScorer.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        ClipScorer.from_pretrained(str(folder), dtype="int8")
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(ValueError, match="cannot load the reward model"):
        ClipScorer.from_pretrained(str(tmp_path))
