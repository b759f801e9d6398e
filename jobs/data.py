"""Fetch and check the data of others that metrics need.

visvm data nltk DIR                 NLTK's tokenizer, tagger and WordNet: CHAIR's wordnet variant, AMBER
visvm data amber-similarity --amber AMBER/ --file similar.json    AMBER's table of similar words

Without a network, `data nltk DIR --source FOLDER` takes NLTK's packages (zips or unpacked, laid out as
nltk_data) from a folder, and --wordnet /usr/share/wordnet takes Debian's wordnet-base with
wordnet-sense-index. What is still missing is named. Then: export NLTK_DATA=DIR
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs.runner.command import run
from visvm.config import Config, did_you_mean


class NltkConfig(Config):
    """Where NLTK's data goes, and where it comes from."""

    dir: str = Field(description="folder for the data: NLTK_DATA")
    source: str | None = Field(None, description="folder with NLTK's packages (default: NLTK's own server)")
    wordnet: str | None = Field(
        None, description="folder of a WordNet 3.0, such as Debian's /usr/share/wordnet"
    )


class SimilarityConfig(Config):
    """The vocabulary and the model behind the table of similar words."""

    amber: str = Field(description="folder of AMBER's authors")
    file: str = Field(description="JSON file to write")
    model: str = Field("en_core_web_lg", description="spaCy model with word vectors")
    allow_pruned: bool = Field(False, description="take a model of which many words share a vector")


def nltk(config: NltkConfig) -> dict[str, Any]:
    """Fetch what is missing, try all of it, and say what is still missing."""
    from visvm.metrics import nltk_install

    missing = nltk_install.install(config.dir, source=config.source, wordnet=config.wordnet)
    if missing:
        found = "; ".join(f"{name}: {problem}" for name, problem in missing.items())
        raise ValueError(f"NLTK's data in {config.dir} is not complete: {found}.\n{nltk_install.ADVICE}")
    print(f"all of NLTK's data is there; export NLTK_DATA={config.dir}")
    return {}


def amber_similarity(config: SimilarityConfig) -> dict[str, Any]:
    """Write the pairs of AMBER's words that the vectors find similar."""
    from visvm import storage
    from visvm.metrics.amber_folder import data_folder, read_words
    from visvm.metrics.similar_words import make_table

    words = read_words(data_folder(config.amber))
    table = make_table(words.vocabulary, model=config.model, allow_pruned=config.allow_pruned)
    storage.write(config.file, json.dumps(table, indent=1) + "\n")
    print(f"{len(table['pairs'])} pairs of similar words in {config.file}")
    return table


VERBS = {"nltk": (NltkConfig, nltk), "amber-similarity": (SimilarityConfig, amber_similarity)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``nltk DIR`` or ``amber-similarity`` and return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    verb, rest = (given[0], given[1:]) if given else ("", [])
    if verb in ("-h", "--help"):
        print(f"usage: visvm data nltk|amber-similarity [flags]\n\n{__doc__}")
        return 0
    if verb not in VERBS:
        near = did_you_mean(verb, VERBS)
        print(f"error: data takes {' or '.join(VERBS)}, got {verb!r}{near} (see --help)", file=sys.stderr)
        return 2
    if verb == "nltk" and rest and not rest[0].startswith("-"):
        rest = ["--dir", *rest]
    config_class, work = VERBS[verb]
    return run(config_class, work, rest, doc=__doc__ or "")  # type: ignore[type-var, arg-type]


if __name__ == "__main__":
    sys.exit(main())
