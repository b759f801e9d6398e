"""Packing of rollouts for TD: the distinct states of an image, and the pairs that link them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from visvm.engine.tree_packing import Packed, TokenTree, pack_trees
from visvm.training.td import NO_STATE, Pairs, Response, num_pairs, pair_rewards
from visvm.value import StateReader


@dataclass(frozen=True)
class TextPack:
    """The states and TD pairs of one image.

    State k is read at node ``states[k]`` of the tree. A pair is (state, next state or NO_STATE, reward for
    V, reward for N); see ``td.Pairs``.
    """

    tree: TokenTree
    states: tuple[int, ...]
    pairs: tuple[tuple[int, int, float, float], ...]


class Packer:
    """Packs the responses of an image into a token tree, in which common prefixes are shared."""

    def __init__(self, reader: StateReader) -> None:
        self.reader, self.config = reader, reader.config

    def pack(self, responses: Sequence[Response]) -> TextPack:
        """Return all states and pairs of the responses of one image."""
        tree, pairs = TokenTree(), []
        states: dict[int, int] = {}
        for response in responses:
            nodes = self._nodes(tree, response)
            pairs += self._pairs(response, [states.setdefault(node, len(states)) for node in nodes])
        return TextPack(tree, tuple(states), tuple(pairs))

    def _nodes(self, tree: TokenTree, response: Response) -> list[int]:
        """Return the node of each sentence's state; without a terminal case, also of a bare end-of-text."""
        last = len(response.sentences) - 1
        parts = [
            self.reader.sentence_ids(sentence, response.stopped and i == last)
            for i, sentence in enumerate(response.sentences)
        ]
        if self.config.state == "prefix":
            path = tree.add([token for part in parts for token in part])
            return [path[end - 1] for end in accumulate(map(len, parts))]
        if not self.config.terminal:
            parts.append((self.reader.end_id,))
        return [tree.add(part)[-1] for part in parts]

    def _pairs(self, response: Response, states: list[int]) -> list[tuple[int, int, float, float]]:
        config = self.config
        gains = pair_rewards(
            response, centre=config.reward_centre, scale=config.reward_scale, predict=config.predict
        )
        following = [*states[1:], NO_STATE]
        return [(states[i], following[i], *gains[i]) for i in range(num_pairs(response))]


def collate(packs: Sequence[TextPack]) -> tuple[Packed, Pairs]:
    """Join the packs of B images into one batch, numbering the states consecutively."""
    packed = pack_trees([pack.tree for pack in packs], [pack.states for pack in packs])
    state, following, rewards = [], [], []
    first = 0
    for pack in packs:
        for here, after, value, length in pack.pairs:
            state.append(here + first)
            following.append(NO_STATE if after == NO_STATE else after + first)
            rewards.append((value, length))
        first += len(pack.states)
    return packed, Pairs(
        torch.tensor(state, dtype=torch.long),
        torch.tensor(following, dtype=torch.long),
        torch.tensor(rewards, dtype=torch.float32).view(-1, 2),
    )
