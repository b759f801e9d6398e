"""The figures of the VisVM paper (arXiv 2412.03704, tables 1 and 2), to set beside one's own.

Percentages for CHAIR, the hallucination rate of MMHal-Bench and AMBER's coverage; MMHal's score is of 6.
"""

from __future__ import annotations

from collections.abc import Mapping

Figures = Mapping[str, Mapping[str, float]]
KEYS = ("chair_s", "chair_i", "mmhal_score", "mmhal_rate", "amber_cover")


def _row(*figures: float) -> dict[str, float]:
    return dict(zip(KEYS, figures, strict=True))


SEARCHES: dict[str, Figures] = {
    "llava-next-7b": {
        "greedy": _row(32.4, 5.9, 2.94, 52, 63.9),
        "best_of_30": _row(27.1, 5.2, 3.06, 45, 65.3),
        "prm": _row(28.4, 5.5, 2.96, 49, 66.1),
        "mcts": _row(25.9, 4.7, 3.24, 37, 67.3),
        "visvm": _row(26.2, 4.6, 3.30, 39, 66.8),
        "visvm_second_reward": _row(25.6, 4.4, 3.31, 36, 67.5),
    },
    "qwen2-vl-7b": {
        "greedy": _row(30.8, 5.2, 3.27, 37, 69.4),
        "visvm": _row(24.5, 3.3, 3.39, 29, 73.5),
    },
}
TUNED: Figures = {  # LLaVA-Next-7B fine-tuned on the captions of a search, decoded greedily
    "greedy": {"chair_s": 32.4},
    "sft_greedy": {"chair_s": 33.2},
    "sft_best_of_30": {"chair_s": 30.0},
    "sft_prm": {"chair_s": 26.0},
    "sft_visvm": {"chair_s": 22.6},
}
PROBE: Figures = {"probe_prm": {"chair_s": 31.6}, "probe_visvm": {"chair_s": 30.9}}


def figures_for(model: str) -> Figures:
    """Return the paper's figures by row; those of LLaVA-Next-7B for models that the paper does not have."""
    own = SEARCHES.get(model, SEARCHES["llava-next-7b"])
    return {**own, **({} if model == "qwen2-vl-7b" else {**TUNED, **PROBE, "greedy": own["greedy"]})}
