"""``visvm VERB ...``: runs ``jobs/VERB.py``, the same file that ``python -m jobs.VERB`` runs."""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "demo": "the whole loop on the embedded world, with a table and a report",
    "generate-triples": "images -> rollouts with rewards -> (sentence, next sentence, reward) triples",
    "train-value": "rollouts -> vision value model, by TD learning",
    "caption": "images -> captions by greedy, sample, best_of_n, prm, visvm, mcts, ...",
    "finetune": "captions -> fine-tuned policy (full-parameter SFT)",
    "serve": "the endpoint: OpenAI's chat completions, guided by search",
    "evaluate": "captions -> CHAIR, recall and length with intervals",
    "self-train": "generate, train, caption, finetune, evaluate; again",
    "world": "make images of the embedded world, or train its models from nothing",
    "benchmark": "the published procedure and ours, side by side on random weights",
    "benchmark-serve": "the endpoint under load: clients, replicas that come and go, replicas killed",
    "plan": "what a job needs and a cluster has: actors, memory, hours; says if it does not fit",
    "benchmark-cluster": "what Ray costs and what it survives: chaos, overhead, actors, memory",
    "env": "versions, devices and Ray, for bug reports",
}


def main() -> None:
    """Dispatch to the job named by the first argument; exit status 2 for an unknown verb."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    job = importlib.import_module("jobs." + verb.replace("-", "_"))
    sys.exit(job.main(sys.argv[2:]))


def usage() -> str:
    """The list of verbs, one line each."""
    lines = [f"  {verb:18}{what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: visvm VERB [--help] ...", "", *lines])
