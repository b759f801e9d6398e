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
    """A sentence in the tree: its reward and the mean value of the paths that went through it.

    It refers to the node ``above`` it weakly: a tree that is given up must free its image at once.
    """

    reward: float
    candidate: Candidate | None = None
    above: ReferenceType[Node] | None = None
    branch: Branch | None = None
    candidates: Sequence[Candidate] = ()
    children: list[Node] = field(default_factory=list)
    total: float = 0.0
    visits: int = 1

    @property
    def parent(self) -> Node | None:
        return self.above() if self.above else None

    @property
    def value(self) -> float:
        return self.total / self.visits


@dataclass(frozen=True)
class MCTS(SentenceSearch):
    """Before each sentence is committed, ``simulations`` of: select a leaf, expand it, back up.

    Select: from the root down, the child with the highest value + ``exploration`` * spread *
    sqrt(log(all visits) / its visits); spread is the range of the siblings' rewards, so one setting
    fits every reward. Expand: the candidates of stepwise search (1 + ``step_size`` * T), each worth
    its own reward at first. Back up: the path down to the leaf and its best child is worth the mean
    of its rewards with weights ``gamma`` ^ depth, which favours neither long nor short captions;
    every node on the path averages that over its visits. The child of the root with the highest
    value is committed and the tree below it kept. One simulation is stepwise search by the reward;
    the default of 7 costs about seven times as much, as in the paper.
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
                if not self._is_end(leaf):
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

    def _is_end(self, leaf: Node) -> bool:
        if leaf.candidate is None or leaf.parent is None or leaf.parent.branch is None:
            return False
        length = len(leaf.parent.branch.sentences) + 1
        return leaf.candidate.ended or at_limit(length, self.max_sentences)

    async def _expand(self, context: SearchContext, draft: Draft, leaf: Node) -> None:
        branch = _branch(context, leaf)
        (candidates,) = await context.propose([branch], (0.0, *self.temperatures * self.step_size))
        count_tokens(draft, candidates)
        states = [State(branch.sentences, one.text, one.ended) for one in candidates]
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
    """The committed child, cut from its parent so that back-ups stop at it.

    An expanded child has a branch already, and its candidates belong to that one.
    """
    child = root.children[draft.trace[-1].choice]
    child.above = None
    child.branch = draft.branch = child.branch or draft.branch
    return child


def _branch(context: SearchContext, leaf: Node) -> Branch:
    """The branch that the leaf's sentence leads to; only a root has it already."""
    if leaf.branch is None:
        assert leaf.parent and leaf.parent.branch and leaf.candidate, "a leaf hangs on an expanded node"
        (leaf.branch,) = context.commit([leaf.parent.branch], [leaf.candidate])
    return leaf.branch


def _grow(leaf: Node, candidates: Sequence[Candidate], rewards: Sequence[float]) -> None:
    """One child a candidate; candidates that say the same share one, so none is searched twice."""
    leaf.candidates = candidates
    known: dict[tuple[str, bool], Node] = {}
    for candidate, reward in zip(candidates, rewards, strict=True):
        node = Node(reward=reward, candidate=candidate, above=ref(leaf), total=reward)
        leaf.children.append(known.setdefault((candidate.text, candidate.ended), node))
