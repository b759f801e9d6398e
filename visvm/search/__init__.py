"""The search methods: ways of writing a caption, all with the signature of ``records.Search``."""

from visvm.search.beam import Beam, ParticleFilter
from visvm.search.best_of_n import BestOfN
from visvm.search.decode import Decode
from visvm.search.draft import SentenceSearch
from visvm.search.filtered import Filtered
from visvm.search.mcts import MCTS
from visvm.search.methods import METHODS, Method, SearchConfig, find_method, make_search
from visvm.search.oracle import Oracle
from visvm.search.stepwise import Stepwise

__all__ = [
    "MCTS",
    "METHODS",
    "Beam",
    "BestOfN",
    "Decode",
    "Filtered",
    "Method",
    "Oracle",
    "ParticleFilter",
    "SearchConfig",
    "SentenceSearch",
    "Stepwise",
    "find_method",
    "make_search",
]
