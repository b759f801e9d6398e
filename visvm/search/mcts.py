"""Monte Carlo tree search over sentences (UCT), with the process reward of each sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import ReferenceType, ref

from visvm.records import Branch, Candidate, Caption
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    SentenceSearch,
    State,
    at_limit,
    close,
    commit,
    count_tokens,
    score_states,
)
from visvm.search.scheduler import SearchContext


@dataclass(eq=False)
class Node:
    """A sentence in the tree: its reward, and the mean value of the paths through it.

    The reference to the parent is weak, so that an abandoned tree frees its image at once, without
    waiting for the garbage collector.
    """

    reward: float
    candidate: Candidate | None = None
    parent_ref: ReferenceType[Node] | None = None
    branch: Branch | None = None
    candidates: Sequence[Candidate] = ()
    children: list[Node] = field(default_factory=list)
    total: float = 0.0
    visits: int = 1

    @property
    def parent(self) -> Node | None:
        return self.parent_ref() if self.parent_ref else None

    @property
    def value(self) -> float:
        return self.total / self.visits


@dataclass(frozen=True)
class MCTS(SentenceSearch):
    """Run ``simulations`` of select, expand and back up before each sentence is committed.

    Select: descend from the root to the child with the highest value + ``exploration`` * spread *
    sqrt(log(visits of all siblings) / visits). Spread is the range of the siblings' rewards, so one
    setting fits rewards of any scale.
    Expand: add the candidates of stepwise search (1 + ``step_size`` * T), each valued at its reward.
    Back up: a path from below the root to the best child of the leaf is worth the mean of its rewards
    with weights ``gamma`` ^ depth, which favours neither long nor short captions. Every node on the
    path averages that over its visits.

    Then the child of the root with the highest value is committed, and the tree below it is kept. One
    simulation equals stepwise search by the reward; the default of 7 costs about seven times as much,
    as in the paper.
    """

    name: str = "mcts"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    simulations: int = 7
    exploration: float = 1.0
    gamma: float = 0.9
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft, root = Draft(branch), Node(reward=0.0, branch=branch)
        while draft.is_live(self.max_sentences):
            for _ in range(self.simulations):
                leaf = self._select(root)
                if not self._is_end(leaf, len(draft.given)):
                    await self._expand(context, draft, leaf)
                self._back_up(leaf)
            commit(context, draft, root.candidates, [child.value for child in root.children])
            root = _next_root(draft, root)
        return close(draft, self.name)

    def _select(self, node: Node) -> Node:
        while node.children:
            children = list(dict.fromkeys(node.children))
            rewards = [child.reward for child in children]
            bonus = self.exploration * (max(rewards) - min(rewards))
            log_visits = math.log(sum(child.visits for child in children))
            node = max(children, key=lambda child: child.value + bonus * math.sqrt(log_visits / child.visits))
        return node

    def _is_end(self, leaf: Node, num_given: int) -> bool:
        if leaf.candidate is None or leaf.parent is None or leaf.parent.branch is None:
            return False
        length = len(leaf.parent.branch.sentences) + 1 - num_given
        return leaf.candidate.ended or at_limit(length, self.max_sentences)

    async def _expand(self, context: SearchContext, draft: Draft, leaf: Node) -> None:
        branch = _branch(context, leaf)
        (candidates,) = await context.propose([branch], (0.0, *self.temperatures * self.step_size))
        count_tokens(draft, candidates)
        states = [State(branch.sentences, one.text, one.is_last) for one in candidates]
        _grow(leaf, candidates, await score_states(context, draft, states))

    def _back_up(self, leaf: Node) -> None:
        total, weight = 0.0, 0.0
        if leaf.children:
            total, weight = max(child.reward for child in leaf.children), 1.0
        node = leaf
        while node.parent is not None:
            total, weight = node.reward + self.gamma * total, 1.0 + self.gamma * weight
            node.total += total / weight
            node.visits += 1
            node = node.parent


def _next_root(draft: Draft, root: Node) -> Node:
    """Return the committed child, detached from its parent so that back-ups stop at it.

    A child that was expanded keeps its own branch, since its candidates belong to that one.
    """
    child = root.children[draft.trace[-1].choice]
    child.parent_ref = None
    child.branch = draft.branch = child.branch or draft.branch
    return child


def _branch(context: SearchContext, leaf: Node) -> Branch:
    """Return the branch after the leaf's sentence; only the root has one before it is expanded."""
    if leaf.branch is None:
        assert leaf.parent and leaf.parent.branch and leaf.candidate, "the parent of a leaf has been expanded"
        (leaf.branch,) = context.commit([leaf.parent.branch], [leaf.candidate])
    return leaf.branch


def _grow(leaf: Node, candidates: Sequence[Candidate], rewards: Sequence[float]) -> None:
    """Add one child per candidate; equal candidates share a child, so none is searched twice."""
    leaf.candidates = candidates
    known: dict[tuple[str, bool], Node] = {}
    for candidate, reward in zip(candidates, rewards, strict=True):
        node = Node(reward=reward, candidate=candidate, parent_ref=ref(leaf), total=reward)
        leaf.children.append(known.setdefault((candidate.text, candidate.ended), node))
