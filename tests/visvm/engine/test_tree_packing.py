"""Packed TD training equals the one-by-one computation, in losses and in every gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.support import tiny
from visvm.engine import tree_packing
from visvm.engine.attention import Scoring
from visvm.engine.tree_packing import Recorded, TokenTree, TreeAttention, pack_trees, tree_mask
from visvm.records import DecodedImage
from visvm.training.td import NO_STATE, Response, num_pairs, td_loss
from visvm.training.text_packing import Packer, collate
from visvm.value import VisionValueModel

IMAGES = [tiny.image(0), tiny.image(1, width=64, height=28), tiny.image(2, width=30, height=60)]
RESPONSES = [
    [
        Response(
            ("A dog sits.", " A cat sleeps near it.", " The sky is blue."), (0.3, 0.1, 0.2), stopped=True
        ),
        Response(("A dog sits.", " Two people ride"), (0.3, 0.5), stopped=False),
    ],
    [Response(("A cup is on the table.",), (0.25,), stopped=True)],
    [
        Response(
            ("The scene looks calm.", " A dog sits.", " The sky is blue."), (0.1, 0.2, 0.3), stopped=True
        ),
        Response(("The sky is blue.",), (0.3,), stopped=True),
    ],
]


def value_model(folder: Path, name: str, **config: Any) -> VisionValueModel:
    """A tiny value model with a head that is not zero."""
    model = VisionValueModel.from_policy(str(tiny.save(name, folder / name)), **config)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    return model.double()


def plain_outputs(model: VisionValueModel, image: DecodedImage, text: tuple[int, ...]) -> torch.Tensor:
    """Value and length behind one text, by the model's own forward over one whole sequence."""
    (inputs,) = model.family.preprocess([image])
    more = torch.tensor([text])
    given = {key: followed_by(value, more, key, inputs["input_ids"]) for key, value in inputs.items()}
    given = {key: x.double() if x.is_floating_point() else x for key, x in given.items()}
    out = model.base(**given, use_cache=False)
    return model.head(out.last_hidden_state[0, -1])


def followed_by(value: torch.Tensor, more: torch.Tensor, key: str, ids: torch.Tensor) -> torch.Tensor:
    """The tensor ``key`` of an image part, for text tokens behind it, too."""
    if value.shape != ids.shape or value.is_floating_point():
        return value
    filled = more if key == "input_ids" else torch.full_like(more, int(key == "attention_mask"))
    return torch.cat([value, filled], dim=1)


def plain_loss(model: VisionValueModel, image: DecodedImage, response: Response) -> torch.Tensor:
    """The TD loss of one response, written out sentence by sentence."""
    config, end = model.config, model.family.tokenizer.eos_token_id
    texts = [tuple(model.family.text_ids(sentence.strip())) for sentence in response.sentences]
    if config.state == "prefix":
        texts = [sum(texts[: i + 1], ()) for i in range(len(texts))]
    if response.stopped:
        texts[-1] = (*texts[-1], end)
    outputs = [plain_outputs(model, image, text) for text in texts]
    loss = torch.zeros(2)
    for i in range(len(texts)):
        reward = torch.tensor([(response.rewards[i] - config.reward_centre) / config.reward_scale, 1.0])
        if i + 1 < len(texts):
            target = reward + config.gamma * outputs[i + 1].detach()
        elif response.stopped:
            target = reward
        else:
            continue
        loss = loss + (target - outputs[i]) ** 2
    return loss


@pytest.mark.parametrize("state", ["sentence", "prefix"])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_packed_loss_and_gradients_equal_one_by_one(tmp_path: Path, name: str, state: str) -> None:
    model = value_model(tmp_path, name, state=state, reward_centre=0.2, reward_scale=0.1)
    packs = [Packer(model.reader).pack(responses) for responses in RESPONSES]
    packed, pairs = collate(packs)
    assert len(pairs) == 9
    loss = td_loss(model(model.family.preprocess(IMAGES), packed), pairs, gamma=model.config.gamma)
    loss.sum().backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    plain = sum(
        plain_loss(model, image, response)
        for image, responses in zip(IMAGES, RESPONSES, strict=True)
        for response in responses
    )
    plain.sum().backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)
    assert any("vision_tower" in key or "visual" in key for key in gradients)
    for key, p in model.named_parameters():
        if p.grad is not None:
            scale = p.grad.abs().max().item()
            torch.testing.assert_close(gradients[key], p.grad, rtol=0, atol=1e-5 * scale + 1e-9, msg=key)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl"])
def test_a_block_mask_gives_the_same_values(tmp_path: Path, name: str) -> None:
    model = value_model(tmp_path, name).eval()
    packed, _ = collate([Packer(model.reader).pack(responses) for responses in RESPONSES])
    inputs = model.family.preprocess(IMAGES)
    outputs = []
    # Eagerly: flex attention would be compiled else, which takes longer than all that is tested here.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for use_block_mask in (False, True):
            model.use_block_mask = use_block_mask
            outputs.append(model(inputs, packed))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", tiny.NAMES)
def test_on_a_gpu_block_and_dense_masks_give_the_same_gradients(tmp_path: Path, name: str) -> None:
    model = value_model(tmp_path, name).float().cuda()
    packed, pairs = collate([Packer(model.reader).pack(responses) for responses in RESPONSES])
    gradients = []
    for use_block_mask in (False, True):
        model.zero_grad()
        model.use_block_mask = use_block_mask
        outputs = model(model.family.preprocess(IMAGES), packed.to("cuda"))
        td_loss(outputs, pairs.to("cuda"), gamma=0.9).sum().backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    for key, dense in gradients[0].items():
        scale = dense.abs().max().item()
        torch.testing.assert_close(gradients[1][key], dense, rtol=0, atol=1e-3 * scale + 1e-6, msg=key)


def texts(model: VisionValueModel, responses: list[Response]) -> set[tuple[int, ...]]:
    """The tokens of the distinct sentence states of some responses."""
    return {
        model.reader.sentence_ids(text, one.stopped and i == len(one.sentences) - 1)
        for one in responses
        for i, text in enumerate(one.sentences)
    }


def test_what_occurs_again_is_computed_once(tmp_path: Path) -> None:
    """One prefix an image, one place a token path: the packed row has no token to spare."""
    model = value_model(tmp_path, "llava")
    for responses in RESPONSES:
        pack = Packer(model.reader).pack(responses)
        distinct = texts(model, responses)
        assert len(pack.states) == len(distinct)
        assert len(pack.pairs) == sum(map(num_pairs, responses))
        packed, _ = collate([pack])
        paths = {ids[:end] for ids in distinct for end in range(1, len(ids) + 1)}
        assert packed.tokens.shape == (1, len(paths))


def test_the_end_is_marked_only_where_the_policy_ended(tmp_path: Path) -> None:
    model = value_model(tmp_path, "llava")
    packed, pairs = collate([Packer(model.reader).pack(RESPONSES[0])])
    read = packed.tokens[packed.rows, packed.columns]
    is_last = pairs.following == NO_STATE
    assert (
        (read[pairs.state] == model.reader.end_id).tolist() == is_last.tolist() == [False, False, True, False]
    )


def test_without_terminal_case_the_last_sentence_bootstraps_from_the_bare_end(tmp_path: Path) -> None:
    model = value_model(tmp_path, "llava", terminal=False)
    packed, pairs = collate([Packer(model.reader).pack(RESPONSES[1])])
    bare = pairs.following[0]
    assert bare != pairs.state[0]
    assert packed.tokens[0, packed.columns[bare]] == model.reader.end_id
    assert packed.depths[0, packed.columns[bare]] == 0


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_token_sees_exactly_its_own_path(texts: list[list[int]]) -> None:
    tree = TokenTree()
    nodes = [tree.add(text) for text in texts]
    packed = pack_trees([tree], [[node for path in nodes for node in path]])
    mask = tree_mask(packed.ends)[0, 0]
    columns = iter(packed.columns.tolist())
    for text in texts:
        path = [next(columns) for _ in text]
        assert packed.tokens[0, path].tolist() == text
        assert packed.depths[0, path].tolist() == list(range(len(text)))
        assert mask[path[-1]].nonzero().flatten().tolist() == path


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 2, 4, 6])
@pytest.mark.parametrize("strip", [1, 3, 100])
def test_strips_and_blocks_give_what_the_dense_mask_gives(
    strip: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_packing, "STRIP", strip)
    trees = [TokenTree(), TokenTree()]
    for tree, texts in zip(trees, (["abc", "abd", "xy", "abce", "z"], ["pq", "p", "rstuvw"]), strict=True):
        for text in texts:
            tree.add([ord(letter) for letter in text])
    packed = pack_trees(trees, [[], []])
    generator = torch.Generator().manual_seed(0)
    length, lengths = packed.ends.shape[1], (5, 3)
    query = torch.randn(2, 4, length, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, length, 8, generator=generator)
    images = Recorded(2)
    for i, n in enumerate(lengths):
        images.record([i], 0, *torch.randn(2, 1, 2, n, 8, generator=generator))
    before = images.padded(0)
    mask = torch.cat([torch.ones(2, 1, length, 5, dtype=torch.bool), tree_mask(packed.ends)], dim=3)
    mask[1, :, :, 3:5] = False
    if window is not None:
        places = torch.tensor(lengths)[:, None] + packed.depths
        keys = torch.cat([torch.arange(5).expand(2, -1), places], dim=1)
        mask &= (keys[:, None] > places[:, :, None] - window)[:, None]
    k, v = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
    dense = F.scaled_dot_product_attention(query, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    layer = torch.nn.Module()
    layer.layer_idx = 0
    real = packed.ends > 0
    # Eagerly: flex attention would be compiled else, which takes longer than all that is tested here.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for use_blocks in (False, True):
            trees = TreeAttention(images, lengths, packed, use_blocks=use_blocks)
            out = trees.attend(layer, query, key, value, Scoring(0.3, window))
            torch.testing.assert_close(out.transpose(1, 2)[real], dense.transpose(1, 2)[real])


def test_padding_sees_only_itself() -> None:
    mask = tree_mask(torch.tensor([[4, 0, 4, 4, 0]]))[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
