"""``visvm VERB ...`` runs ``jobs/VERB.py``, the file that ``python -m jobs.VERB`` runs too."""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence

from visvm.config import did_you_mean

VERBS = {
    "demo": "run the whole loop on the embedded world: table and report",
    "reproduce": "the paper's tables and figures, with its figures beside ours",
    "describe": "one or a few images, in this process: each sentence as it is chosen",
    "caption": "images -> captions, by greedy, best_of_n, prm, visvm, mcts, ...",
    "generate-triples": "images -> rollouts with rewards -> (sentence, next sentence, reward) triples",
    "import": "responses of any generator -> rollouts with rewards and triples",
    "train-value": "rollouts -> vision value model, by TD learning",
    "finetune": "captions -> fine-tuned policy",
    "export": "captions with their traces -> training data of TRL, LLaVA, ShareGPT",
    "merge": "a LoRA adapter and its base -> a policy of its own",
    "evaluate": "captions -> CHAIR, recall and length, with intervals",
    "calibrate": "annotated captions -> the threshold that keeps hallucination below a promised level",
    "amber": "answers -> AMBER's CHAIR, Cover, Hal, Cog and yes/no metrics, with intervals",
    "answer": "questions about images -> answers, by a policy (with any search) or an endpoint",
    "pope": "make POPE's yes/no questions from annotations, or evaluate answers to them",
    "mmhal": "answers -> MMHal-Bench's score and hallucination rate, by a judge model",
    "lmms-eval": "benchmarks of lmms-eval on an endpoint: MM-Vet, MMBench, MMMU, POPE, ...",
    "data": "fetch and check the data of others that metrics need",
    "self-train": "generate, train, caption, finetune, evaluate; several rounds",
    "show": "the captions, rollouts or results of a run, here or as one HTML page",
    "serve": "an endpoint that speaks OpenAI's chat completions, guided by search",
    "world": "make images of the embedded world, or train its models from scratch",
    "check": "whether a policy is computed exactly: self-test, gradients, memory",
    "plan": "what a job needs and a cluster has: actors, memory, hours",
    "scaling": "what many GPUs would do with many images, and what limits them",
    "benchmark": "the engine against the published procedure, on random weights",
    "benchmark-serve": "the endpoint under load: clients, scaling, killed replicas",
    "benchmark-cluster": "what Ray costs and survives: chaos, overhead, actors, memory",
    "env": "versions, devices and Ray, for bug reports",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the first argument names; exit with 2 for an unknown one."""
    given = list(sys.argv[1:] if argv is None else argv)
    verb = given[0] if given else "--help"
    if verb in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if verb in ("-V", "--version", "version"):
        print(version())
        sys.exit(0)
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}{did_you_mean(verb, VERBS)} (see visvm --help)", file=sys.stderr)
        sys.exit(2)
    sys.exit(importlib.import_module(f"jobs.{module_of(verb)}").main(given[1:]))


def module_of(verb: str) -> str:
    """Return the name of a verb's module: "train_value", and "import_" for a word of Python's."""
    return f"{verb}_" if keyword.iskeyword(verb) else verb.replace("-", "_")


def usage() -> str:
    """Return the list of verbs, one line each."""
    lines = [f"  {verb:19}{what}" for verb, what in VERBS.items()]
    rest = ["", "visvm VERB --help lists the flags of a verb; visvm --version prints the version."]
    return "\n".join(["usage: visvm VERB [flags]", "", *lines, *rest])


def version() -> str:
    """Return the name and version of this package."""
    from importlib.metadata import version

    return f"visvm {version('visvm')}"
