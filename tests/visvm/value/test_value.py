"""The value model survives saving, and its scores depend on the image and the text, on nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.support import tiny
from visvm.records import Question
from visvm.training.td import Response
from visvm.training.text_packing import Packer, collate
from visvm.value import FutureScorer, ValueScorer, VisionValueModel

SENTENCES = ("A dog sits on a red bench.", "The sky is blue.", "A cup is on the table near the window.")

_NEAR = 1e-4  # of values of the size of 10: float32 rounds sums of other batches differently


def close_to(values: object) -> object:
    """The same values but for rounding."""
    return pytest.approx(values, abs=_NEAR)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny policy of each family."""
    folder = tmp_path_factory.mktemp("policies")
    return {name: str(tiny.save(name, folder / name)) for name in tiny.NAMES}


def make(policy: str, **config: object) -> VisionValueModel:
    """A value model with a random head, which tells states apart as the head of zeros does not."""
    model = VisionValueModel.from_policy(policy, **config)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    return model


def question(
    index: int,
    sentences: Sequence[str] = SENTENCES,
    *,
    prefix: tuple[str, ...] = (),
    ended: int | None = None,
) -> Question:
    image = tiny.image(index, width=40 + 8 * index)
    flags = tuple(j == ended for j in range(len(sentences)))
    return Question(image, "Describe.", prefix, tuple(sentences), flags)


def packed_value(model: VisionValueModel, one: Question, j: int) -> float:
    """What the training path says of candidate j."""
    texts = (*one.prefix, one.sentences[j])
    response = Response(texts, (0.0,) * len(texts), stopped=one.ended[j])
    packed, _ = collate([Packer(model.reader).pack([response])])
    with torch.inference_mode():
        return model(model.family.preprocess([one.image]), packed)[-1, 0].item()


@pytest.mark.parametrize("name", tiny.NAMES)
def test_save_and_load_gives_the_same_values(policies: dict[str, str], tmp_path: Path, name: str) -> None:
    model = make(policies[name], state="prefix", gamma=0.8, reward_centre=0.2, reward_scale=0.05)
    before = ValueScorer(model).score([question(0, ended=1)])
    model.save_pretrained(tmp_path / "value")
    loaded = VisionValueModel.from_pretrained(tmp_path / "value")
    assert ValueScorer(loaded).score([question(0, ended=1)]) == before
    assert (loaded.config.state, loaded.config.gamma) == ("prefix", 0.8)
    assert (loaded.config.reward_centre, loaded.config.reward_scale) == (0.2, 0.05)
    assert json.loads((tmp_path / "value" / "config.json").read_text())["model_type"] == "vision_value"
    assert not list((tmp_path / "value").glob("*.bin"))


def test_transformers_auto_class_loads_it(policies: dict[str, str], tmp_path: Path) -> None:
    make(policies["llava"]).save_pretrained(tmp_path / "value")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "value"), VisionValueModel)


def test_it_starts_from_the_policys_weights_with_value_zero(policies: dict[str, str]) -> None:
    model = VisionValueModel.from_policy(policies["llava"])
    assert ValueScorer(model).score([question(0)]) == [[0.0, 0.0, 0.0]]
    again = VisionValueModel.from_policy(policies["llava"])
    for (key, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("state", ["sentence", "prefix"])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_search_scores_equal_the_training_path(policies: dict[str, str], name: str, state: str) -> None:
    model = make(policies[name], state=state)
    questions = [question(0, ended=2), question(1, prefix=("A dog sits.", "The sky is blue."), ended=0)]
    scores = ValueScorer(model).score(questions)
    expected = [[packed_value(model, one, j) for j in range(3)] for one in questions]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), rtol=1e-5, atol=_NEAR)


@pytest.mark.parametrize("state", ["sentence", "prefix"])
def test_values_do_not_depend_on_padding_batch_or_order(policies: dict[str, str], state: str) -> None:
    model = make(policies["llava_next"], state=state)
    long = "A cat sleeps under the table near the window on a quiet morning and the scene looks calm. " * 3
    questions = [
        question(0, prefix=("A dog sits.",)),
        question(1, (long,), ended=0),
        question(0, SENTENCES[:2]),
        question(2, (SENTENCES[0], long, SENTENCES[0]), prefix=("The sky is blue.", "A dog sits.")),
    ]
    together = ValueScorer(model).score(questions)
    alone = [ValueScorer(model).score([one])[0] for one in questions]
    backwards = ValueScorer(model, max_images=1).score(questions[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert a == close_to(b)
        assert a == close_to(c)
    assert together[3][0] == close_to(together[3][2])


def test_interleaved_images_are_not_mixed_up(policies: dict[str, str]) -> None:
    """The cache is keyed on the image's content, not on its place or its id."""
    scorer = ValueScorer(make(policies["llava"]))
    fresh = {i: ValueScorer(scorer.model).score([question(i)])[0] for i in range(3)}
    assert len({tuple(values) for values in fresh.values()}) == 3
    for order in ([0, 1], [1, 2, 0], [2, 0, 2]):
        for i, values in zip(order, scorer.score([question(i) for i in order]), strict=True):
            assert values == close_to(fresh[i])
    assert (scorer.misses, scorer.hits) == (3, 4)


def test_the_cache_is_bounded(policies: dict[str, str]) -> None:
    scorer = ValueScorer(make(policies["llava"]), max_images=1)
    scorer.score([question(0), question(1)])
    assert scorer.engine.images.num_used == 1
    scorer.score([question(1)])
    scorer.score([question(0)])
    assert scorer.engine.images.num_used == scorer.engine.images.kv.num_rows == 1


def test_a_image_that_can_never_be_stored_is_told(policies: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"more than the budget of 0 MiB"):
        ValueScorer(make(policies["llava"]), cache_mb=0).score([question(0)])


def test_the_end_is_told_apart(policies: dict[str, str]) -> None:
    scorer = ValueScorer(make(policies["llava"]))
    goes_on, ends = scorer.score([question(0), question(0, ended=1)])
    assert goes_on[0] == close_to(ends[0])
    assert goes_on[1] != pytest.approx(ends[1], abs=1e-3)


def test_centre_moves_the_value_by_the_predicted_length(policies: dict[str, str]) -> None:
    model = make(policies["llava"], reward_centre=0.2, reward_scale=0.05)
    base = ValueScorer(model)
    value, length = base.outputs([question(0)])[0].T
    moved = ValueScorer(model, centre=0.23).score([question(0)])[0]
    assert moved == pytest.approx((value - (0.23 - 0.2) / 0.05 * length).tolist(), abs=1e-4)
    assert base.score([question(0)])[0] == pytest.approx(value.tolist())


class WordCount:
    """A reward that is easy to check."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        return [[0.1 * len(text.split()) for text in one.sentences] for one in questions]


def test_future_scorer_adds_the_exact_reward_to_what_follows(policies: dict[str, str]) -> None:
    model = make(policies["llava"], predict="future", reward_centre=0.2, reward_scale=0.05, gamma=0.5)
    future = ValueScorer(model)
    one = question(0, ended=1)
    follows = future.score([one])[0]
    assert follows[1] == 0.0 != follows[0], "nothing follows the end"
    scores = FutureScorer(WordCount(), future).score([one])[0]
    expected = [
        (0.1 * len(s.split()) - 0.2) / 0.05 + 0.5 * f for s, f in zip(SENTENCES, follows, strict=True)
    ]
    assert scores == pytest.approx(expected)
    with pytest.raises(ValueError, match="future"):
        FutureScorer(WordCount(), ValueScorer(make(policies["llava"])))


def test_the_head_stays_float32(policies: dict[str, str], tmp_path: Path) -> None:
    model = make(policies["llava"])
    model.save_pretrained(tmp_path / "value")
    half = VisionValueModel.from_pretrained(tmp_path / "value", dtype=torch.bfloat16)
    assert half.base.dtype == torch.bfloat16
    assert half.head.weight.dtype == torch.float32
    assert torch.equal(half.head.weight, model.head.weight)
    assert model.bfloat16().head.weight.dtype == torch.float32
    assert ValueScorer(half).outputs([question(0)])[0].dtype == torch.float32


def test_a_folder_that_is_not_a_value_model_is_refused(policies: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'llava' model, not a value model"):
        ValueScorer.from_pretrained(policies["llava"])
    with pytest.raises(ValueError, match="cannot read a value model"):
        VisionValueModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot read a model"):
        VisionValueModel.from_policy(str(tmp_path / "missing"))


@pytest.mark.parametrize("state", ["sentence", "prefix"])
def test_an_empty_sentence_is_worth_what_came_before(policies: dict[str, str], state: str) -> None:
    """Its score is no other row's padding, whether it stands alone or among others."""
    scorer = ValueScorer(make(policies["llava"], state=state))
    so_far = SENTENCES[:1]
    among = scorer.score([question(0, ("", *SENTENCES, " "), prefix=so_far)])[0]
    (alone,) = scorer.score([question(0, ("",), prefix=so_far)])[0]
    (before,) = scorer.score([question(0, so_far)])[0]
    assert [among[0], among[-1]] == close_to([alone, alone])
    assert (alone == close_to(before)) is (state == "prefix")
    assert among[1:-1] == close_to(scorer.score([question(0, prefix=so_far)])[0])
