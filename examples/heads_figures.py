"""Make the figures of docs/results.md on heads: fit heads, choose knobs on validation, caption test images.

python examples/heads_figures.py OUT                                  (the embedded world's models)
python examples/heads_figures.py OUT --models runs/world2 --second    (the second world's)

In this process, without Ray. Every chunk of captions is saved in OUT, and what is there is not made again, so
it may be stopped and started. examples/heads_report.py makes the tables.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from visvm import models
from visvm.policy import SharedPrefixPolicy
from visvm.records import Caption, Request
from visvm.reward import ClipScorer
from visvm.scorers import JudgedScorer
from visvm.search import MCTS, Beam, BestOfN, Decode, Filtered, Oracle, ParticleFilter, Stepwise
from visvm.search.scheduler import SearchContext, run_searches
from visvm.sentences import split_sentences
from visvm.training.head_fit import HeadFitter, StatedResponse
from visvm.training.td import Response
from visvm.value import ValueScorer
from visvm.value.head import READS, HeadConfig, ValueHead, fingerprint
from visvm.value.head_scorer import HeadScorer, read_responses
from visvm.world import checks
from visvm.world.exact import ExactScorer
from visvm.world.scenes import layout

FIRST_TRAIN, NUM_TRAIN, SEEDS = 3000, 500, 3  # the training images, split in SEEDS sets that share none
FIRST_TEST, CHUNK = 1000, 25  # test images that no earlier figure was made on
NUM_VALIDATION = 150
CENTRES = (0.9, 0.95, 1.0, 1.05)  # of the mean reward
VETOES = (0.34, 0.36, 0.38)
ROLLOUT_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8)


class World:
    """A world's models, each loaded once, and the searches by name."""

    def __init__(self, folder: str | None, out: Path, *, second: bool) -> None:
        self.suffix, self.out = "2" if second else "", out
        root = Path(folder) if folder else Path(models.resolve("world", "policy")).parent
        self.policy = SharedPrefixPolicy.from_pretrained(str(root / "policy"))
        self.clip = ClipScorer.from_pretrained(str(root / "clip"))
        self.value = ValueScorer.from_pretrained(str(root / "value")) if (root / "value").is_dir() else None
        self.heads: list[ValueHead] = []
        self.chosen: dict[str, Any] = {}

    def requests(self, split: str, numbers: Sequence[int]) -> list[Request]:
        """Return the requests for captions of images of a split."""
        return [checks.request(layout(split + self.suffix, number)) for number in numbers]

    def head(self, seed: int, *, centre: float = 1.0, gamma: float | None = None) -> HeadScorer:
        """Return the scorer by V of a head; ``centre`` is a share of the mean reward."""
        head = self.heads[seed]
        if gamma is not None:
            head = ValueHead(head.config.model_copy(update={"gamma": gamma}), head.weights)
        return HeadScorer(head, self.policy, centre=head.config.reward_centre * centre)

    def readout(self, seed: int) -> HeadScorer:
        """Return the scorer by the reward of a head, read behind image and sentence alone."""
        return HeadScorer(self.heads[seed], self.policy, output="reward")

    def search(self, name: str) -> tuple[Any, Any]:
        """Return the search and the scorer of a setting: KIND[_SEED], or KIND_SEED_KNOB on validation."""
        kind, *rest = name.split("_")
        seed, knob = int(rest[0]) if rest else 0, float(rest[1]) if len(rest) > 1 else None
        centre = knob or self.chosen.get("centre", 1.0)
        readout = self.readout(seed)
        named: dict[str, Callable[[], tuple[Any, Any]]] = {
            "greedy": lambda: (Filtered(Decode()), readout),
            "clipprm": lambda: (Stepwise(), self.clip),
            "truthprm": lambda: (Stepwise(), ExactScorer()),
            "readoutprm": lambda: (Stepwise(), readout),
            "visvm": lambda: (Stepwise("visvm"), self.value),
            "head": lambda: (
                Filtered(Stepwise("visvm")),
                JudgedScorer(self.head(seed, centre=centre), readout),
            ),
            "veto": lambda: (
                Filtered(Stepwise("visvm", min_reward=knob or self.chosen["veto"])),
                JudgedScorer(self.head(seed, centre=self.chosen["centre"]), readout),
            ),
            "beam": lambda: (Beam(beam_width=3), self.head(seed, centre=centre)),
            "particles": lambda: (ParticleFilter(), self.head(seed, centre=centre)),
            "gamma0": lambda: (Stepwise("visvm"), self.head(seed, gamma=0.0)),
            "published": lambda: (Stepwise("visvm"), Published(self.heads[seed], self.policy, centre=0.0)),
            "bonclip": lambda: (BestOfN(), self.clip),
            "bonreadout": lambda: (BestOfN(), readout),
            "bonhead": lambda: (BestOfN(), self.head(seed, centre=centre)),
            "mctsclip": lambda: (MCTS(), self.clip),
            "mctsreadout": lambda: (MCTS(), readout),
            "mctshead": lambda: (MCTS(), self.head(seed, centre=centre)),
            "oracle8": lambda: (Oracle(completions=8, centre=self.heads[0].config.reward_centre), self.clip),
        }
        return named[kind]()


class Published(HeadScorer):
    """The published recipe: rewards are not centred, V has no mark of the end, and there is no N."""

    def score_candidates(self, branch: Any, candidates: Any) -> list[float]:
        """Return V as if every candidate were followed by others."""
        return super().score_candidates(
            branch, [replace(one, finish_reason="sentence") for one in candidates]
        )


def fit(world: World) -> None:
    """Fit SEEDS heads, each on the rollouts of training images of its own; save them in OUT."""
    size = -(-NUM_TRAIN // SEEDS)
    for seed in range(SEEDS):
        folder = world.out / f"head{seed}"
        if not folder.is_dir():
            numbers = range(FIRST_TRAIN + seed * size, FIRST_TRAIN + min((seed + 1) * size, NUM_TRAIN))
            states = [one for start in numbers[::CHUNK] for one in gather(world, numbers, start)]
            save(world, states, folder)
        world.heads.append(ValueHead.from_pretrained(str(folder)))


def gather(world: World, numbers: range, start: int) -> list[list[StatedResponse]]:
    """Return the responses to CHUNK training images with their rewards and states."""
    requests = world.requests("train", range(start, min(start + CHUNK, numbers.stop)))

    async def write(context: SearchContext, branch: Any) -> Any:
        (candidates,) = await context.propose([branch], ROLLOUT_TEMPERATURES, whole=True)
        return candidates

    responses = run_searches(world.policy, None, requests, write)
    return [respond(world, request, own) for request, own in zip(requests, responses, strict=True)]


def respond(world: World, request: Request, candidates: Sequence[Any]) -> list[StatedResponse]:
    """Return the responses to one image with their rewards and states."""
    texts = [tuple(split_sentences(one.text)) for one in candidates]
    rewards = world.clip.similarities([request.image], [[text for own in texts for text in own]])[0]
    states = read_responses(world.policy, request.image, request.prompt, texts)
    lengths = [len(own) for own in texts]
    parts = {reads: states[reads].cpu().split(lengths) for reads in READS}
    given = torch.tensor(rewards).split(lengths)
    return [
        StatedResponse(
            Response(own, tuple(given[i].tolist()), candidates[i].finish_reason == "stop"),
            {reads: parts[reads][i] for reads in READS},
        )
        for i, own in enumerate(texts)
    ]


def save(world: World, states: Sequence[Sequence[StatedResponse]], folder: Path) -> None:
    """Fit a head to the states of some images, as train-value --kind head does, and save it."""
    fitter = HeadFitter(gamma=0.9, ridge=0.01, held_out=0.0)
    for own in states:
        fitter.add(1.0, own)
    rewards = torch.tensor(fitter.rewards, dtype=torch.float64)
    weights = fitter.weights()
    config = HeadConfig(
        policy="world",
        fingerprint=fingerprint(world.policy.family.base),
        hidden_size=len(weights["prefix"]) - 1,
        gamma=0.9,
        reward_centre=float(rewards.mean()),
        reward_scale=float(rewards.std(correction=0)),
    )
    ValueHead(config, weights).save_pretrained(folder)


def caption(world: World, name: str, split: str, numbers: range) -> list[dict[str, Any]]:
    """Return rows of captions of images; CPU seconds are this process's, over the whole chunk."""
    path = world.out / f"{split}_{numbers.start:05d}_{name}.json"
    if not path.is_file():
        search, scorer = world.search(name)
        started = time.process_time()
        captions = search(world.policy, scorer, world.requests(split, numbers))
        cpu = (time.process_time() - started) / len(captions)
        path.write_text(json.dumps([row(one, cpu) for one in captions]))
    return json.loads(path.read_text())


def row(one: Caption, cpu: float) -> dict[str, Any]:
    """Return the row of a caption: what ``metrics.evaluate`` reads, its sentences and their values."""
    return {
        "image_id": one.request.image.id,
        "caption": one.text,
        "sentences": one.sentences,
        "values": one.values,
        "finish_reason": one.finish_reason,
        "num_generated_tokens": one.cost.num_generated_tokens,
        "num_value_calls": one.cost.num_value_calls,
        "seconds": cpu,
    }


def captions(world: World, name: str, split: str, chunks: Sequence[range]) -> list[dict[str, Any]]:
    """Return rows of the captions of several chunks of images."""
    return [one for numbers in chunks for one in caption(world, name, split, numbers)]


def judge(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return CHAIRs and recall, without intervals."""
    from visvm.metrics.chair import chair
    from visvm.world.scenes import layout_of

    found = [(chair(one["caption"], layout_of(int(one["image_id"])).names), one) for one in rows]
    false = sum(bool(one.hallucinated) for one, _ in found)
    truths = [set(layout_of(int(one["image_id"])).names) for one in rows]
    named = sum(len(truth & set(one.objects)) for truth, (one, _) in zip(truths, found, strict=True))
    return false / len(rows), named / sum(map(len, truths))


def choose(world: World) -> None:
    """Choose the centre and the veto of all heads, by the first on validation images; rule: ``best``."""
    chunks = [range(start, start + CHUNK) for start in range(0, NUM_VALIDATION, CHUNK)]
    greedy = judge(captions(world, "greedy", "validation", chunks))
    for key, kind, grid in (("centre", "head", CENTRES), ("veto", "veto", VETOES)):
        found = {knob: judge(captions(world, f"{kind}_0_{knob}", "validation", chunks)) for knob in grid}
        world.chosen[key] = best(found, greedy[1])
        world.chosen[f"{key}_figures"] = {str(knob): found[knob] for knob in grid}
    world.chosen["greedy_figures"] = greedy
    (world.out / "chosen.json").write_text(json.dumps(world.chosen, indent=1))


def best(found: dict[float, tuple[float, float]], recall: float) -> float:
    """Return the knob with the lowest CHAIRs whose recall is at most half a point below greedy's.

    Where there is none, the one of the highest recall.
    """
    allowed = [knob for knob, (_, own) in found.items() if own >= recall - 0.005]
    if allowed:
        return min(allowed, key=lambda knob: (found[knob][0], -found[knob][1]))
    return max(found, key=lambda knob: found[knob][1])


METHODS = (
    *("greedy", "visvm", "head_0", "veto_0", "clipprm", "readoutprm", "truthprm", "gamma0", "published"),
    *("head_1", "head_2", "veto_1", "veto_2", "beam_0", "particles_0"),
)
COSTLY = (
    "bonclip",
    "bonreadout",
    "bonhead",
    "mctsclip",
    "mctshead",
    "oracle8",
)  # on the first of every six chunks


def main() -> None:
    """Fit, choose, and caption test images chunk by chunk, all methods on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for heads and captions")
    parser.add_argument("--models", help="folder with policy/ and clip/ (default: the embedded world's)")
    parser.add_argument("--second", action="store_true", help="images of the second world")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    world = World(given.models, given.out, second=given.second)
    fit(world)
    choose(world)
    for start in range(FIRST_TEST, FIRST_TEST + given.images, CHUNK):
        numbers = range(start, start + CHUNK)
        for name in METHODS:
            if name != "visvm" or world.value is not None:
                caption(world, name, "test", numbers)
        if (start - FIRST_TEST) // CHUNK % 6 == 5:
            for name in COSTLY:
                caption(world, name, "test", range(start - 5 * CHUNK, start - 4 * CHUNK))
        print(f"test images up to {start + CHUNK} are captioned", flush=True)


if __name__ == "__main__":
    main()
