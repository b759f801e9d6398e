"""Monte Carlo tree search over sentences (UCT), with the process reward of each sentence."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from visvm.records import Branch, Candidate, Caption, Policy, Request, Scorer
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    State,
    at_limit,
    close,
    commit,
    count_tokens,
    open_drafts,
    score_states,
)


@dataclass(eq=False)
class Node:
    """A sentence in the tree: its reward and the mean value of the paths that went through it."""

    reward: float
    candidate: Candidate | None = None
    parent: Node | None = None
    branch: Branch | None = None
    candidates: Sequence[Candidate] = ()
    children: list[Node] = field(default_factory=list)
    total: float = 0.0
    visits: int = 1

    @property
    def value(self) -> float:
        return self.total / self.visits


@dataclass(frozen=True)
class MCTS:
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

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        assert scorer is not None, "mcts needs a scorer"
        started = time.perf_counter()
        drafts = open_drafts(policy, requests)
        roots = {id(draft): Node(reward=0.0, branch=draft.branch) for draft in drafts}
        while live := [draft for draft in drafts if draft.is_live(self.max_sentences)]:
            trees = [(draft, roots[id(draft)]) for draft in live]
            for _ in range(self.simulations):
                self._simulate(policy, scorer, trees)
            self._commit(policy, trees)
            roots = {id(draft): _next_root(draft, root) for draft, root in trees}
        return close(drafts, self.name, started)

    def _simulate(self, policy: Policy, scorer: Scorer, trees: Sequence[tuple[Draft, Node]]) -> None:
        leaves = [self._select(root) for _, root in trees]
        growing = [
            (draft, leaf) for (draft, _), leaf in zip(trees, leaves, strict=True) if not self._is_end(leaf)
        ]
        if growing:
            self._expand(policy, scorer, growing)
        for leaf in leaves:
            self._back_up(leaf)

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

    def _expand(self, policy: Policy, scorer: Scorer, growing: Sequence[tuple[Draft, Node]]) -> None:
        branches = _branches(policy, [leaf for _, leaf in growing])
        proposals = policy.propose(branches, (0.0, *self.temperatures * self.step_size))
        states = []
        for (draft, _), branch, candidates in zip(growing, branches, proposals, strict=True):
            count_tokens(draft, candidates)
            states += [State(draft, branch.sentences, c.text, c.ended) for c in candidates]
        rewards = iter(score_states(scorer, states))
        for (_, leaf), candidates in zip(growing, proposals, strict=True):
            _grow(leaf, candidates, [next(rewards) for _ in candidates])

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

    def _commit(self, policy: Policy, trees: Sequence[tuple[Draft, Node]]) -> None:
        candidates = [root.candidates for _, root in trees]
        values = [[child.value for child in root.children] for _, root in trees]
        commit(policy, [draft for draft, _ in trees], candidates, values)


def _next_root(draft: Draft, root: Node) -> Node:
    """The committed child, cut from its parent so that back-ups stop at it.

    An expanded child has a branch already, and its candidates belong to that one.
    """
    child = root.children[draft.trace[-1].choice]
    child.parent = None
    child.branch = draft.branch = child.branch or draft.branch
    return child


def _branches(policy: Policy, leaves: Sequence[Node]) -> list[Branch]:
    """The branch that each leaf's sentence leads to; only a root has it already."""
    new = [leaf for leaf in leaves if leaf.parent is not None]
    parents = [leaf.parent.branch for leaf in new if leaf.parent and leaf.parent.branch]
    sentences = [leaf.candidate for leaf in new if leaf.candidate]
    for leaf, branch in zip(new, policy.commit(parents, sentences) if new else [], strict=True):
        leaf.branch = branch
    return [leaf.branch for leaf in leaves if leaf.branch]


def _grow(leaf: Node, candidates: Sequence[Candidate], rewards: Sequence[float]) -> None:
    """One child a candidate; candidates that say the same share one, so none is searched twice."""
    leaf.candidates = candidates
    known: dict[tuple[str, bool], Node] = {}
    for candidate, reward in zip(candidates, rewards, strict=True):
        node = Node(reward=reward, candidate=candidate, parent=leaf, total=reward)
        leaf.children.append(known.setdefault((candidate.text, candidate.ended), node))
