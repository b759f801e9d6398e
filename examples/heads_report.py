"""Make the tables of docs/results.md from what examples/heads_figures.py has saved in OUT.

python examples/heads_report.py OUT --json docs/results/heads.json

Every method is judged on the images that all have; a method of three heads ("head", "veto") has the mean over
them on the same images. Calibration: thresholds from validation captions, risk on test captions.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from heads_figures import best

from visvm.metrics import evaluate
from visvm.metrics.bootstrap import Resampling
from visvm.metrics.coco import image_key
from visvm.metrics.risk_control import calibrate, judge, losses
from visvm.world.scenes import layout_of

Rows = list[dict[str, Any]]
GRID = (0.33, 0.34, 0.35, 0.36, 0.37, 0.38)
COSTLY = ("bonclip", "bonreadout", "bonhead", "mctsclip", "mctshead", "oracle8")
PAIRS = (
    *(("head", "greedy"), ("head", "visvm"), ("veto", "greedy"), ("veto", "head"), ("filter", "greedy")),
    *(("head_0", "gamma0"), ("head_0", "readoutprm"), ("head_0", "truthprm"), ("head_0", "clipprm")),
    *(("beam_0", "head_0"), ("particles_0", "head_0"), ("head_0", "published"), ("veto", "filter")),
)
METRICS = ("chair_s", "recall")
RESAMPLING = Resampling(num_resamples=1000, seed=0)


def read(out: Path, split: str) -> dict[str, Rows]:
    """Return the rows of each method."""
    found: dict[str, Rows] = defaultdict(list)
    for path in sorted(out.glob(f"{split}_*.json")):
        found[path.stem.split("_", 2)[2]] += json.loads(path.read_text())
    return found


def truth_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Return what the images of the captions show."""
    return {image_key(row["image_id"]): frozenset(layout_of(int(row["image_id"])).names) for row in rows}


def cut(rows: Rows, tau: float) -> Rows:
    """Return the captions without the sentences whose reward is below tau."""
    kept = []
    for row in rows:
        texts = [s for s, v in zip(row["sentences"], row["values"], strict=True) if v >= tau]
        kept.append({**row, "caption": "".join(texts).strip()})
    return kept


def grouped(test: Mapping[str, Rows], drop: float) -> dict[str, Rows]:
    """Return the methods on the images that all have, with "head", "veto" and "filter" made of others."""
    methods = {name: rows for name, rows in test.items() if name not in COSTLY}
    common = set.intersection(*({row["image_id"] for row in rows} for rows in methods.values()))
    own = {name: [row for row in rows if row["image_id"] in common] for name, rows in methods.items()}
    for kind in ("head", "veto"):
        own[kind] = [row for seed in range(3) for row in own.get(f"{kind}_{seed}", [])]
    return own | {"filter": cut(own["greedy"], drop), "head_filter": cut(own["head"], drop)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the rows of ``evaluate``."""
    names = ("method", "CHAIRs %", "CHAIRi %", "recall %", "sentences", "words", "repetition %")
    lines = [f"| {' | '.join((*names, 'tokens', 'scored', 'CPU ms'))} |", "|" + "---|" * 10]
    for row in rows:
        parts = [f"{100 * row[key]:.1f} {interval(row[key + '_ci'])}" for key in ("chair_s", "chair_i")]
        parts += [f"{100 * row['recall']:.1f} {interval(row['recall_ci'])}", f"{row['num_sentences']:.1f}"]
        parts += [f"{row['num_words']:.0f}", f"{100 * row['repetition']:.1f}"]
        parts += [f"{row['num_generated_tokens']:.0f}", f"{row['num_value_calls']:.1f}"]
        parts += [f"{1000 * row['seconds_per_caption']:.0f}"]
        lines.append(f"| {row['method']} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def figures(name: str, rows: Rows) -> dict[str, Any]:
    """Return the metrics of one method's captions."""
    plain = [{**row, "values": None} for row in rows]
    row: dict[str, Any] = evaluate({name: plain}, truth_of(rows), resampling=RESAMPLING)["rows"][0]
    return row


def interval(ci: Sequence[float]) -> str:
    """Return an interval in percent."""
    return f"[{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]"


def differences(rows: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """Return the paired differences of PAIRS, plain and at equal length."""
    found = []
    for first, second in PAIRS:
        if not (rows.get(first) and rows.get(second)):
            continue
        given = {first: rows[first], second: rows[second]}
        given = {name: [{**row, "values": None} for row in own] for name, own in given.items()}
        pairs = evaluate(given, truth_of(rows[first]), resampling=RESAMPLING)["paired"]
        found += [pair for pair in pairs if pair["metric"] in METRICS]
    return found


def risk(validation: Rows, test: Rows) -> list[dict[str, Any]]:
    """Return, for each alpha, the threshold from validation, the risk and recall on test, and resplits."""
    sides = [judge(rows, truth_of(rows)) for rows in (validation, test)]
    both = sides[0] + sides[1]
    found = []
    for alpha in (0.05, 0.1, 0.2):
        tau = calibrate(sides[0], risk="chair_s", alpha=alpha)["tau"]
        own_figures = figures("filtered", cut(test, tau))
        risks = []
        for seed in range(20):
            order = np.random.default_rng(seed).permutation(len(both))
            halves = [[both[i] for i in part] for part in np.array_split(order, 2)]
            own = calibrate(halves[0], risk="chair_s", alpha=alpha)["tau"]
            risks.append(float(losses(halves[1], np.array([own]), "chair_s").mean()))
        found.append(
            {"alpha": alpha, "tau": tau, "risk": own_figures["chair_s"], "recall": own_figures["recall"]}
            | {"resplits": float(np.mean(risks)), "resplits_sd": float(np.std(risks))}
            | {"num_calibration": len(sides[0]), "num_test": len(sides[1])}
        )
    return found


def filter_grid(validation: Rows) -> dict[float, tuple[float, float]]:
    """Return CHAIRs and recall of filtered greedy validation captions at each threshold."""
    found = {}
    for tau in (-1.0, *GRID):
        own = figures("filtered", cut(validation, tau))
        found[tau] = (own["chair_s"], own["recall"])
    return found


def main() -> None:
    """Print the tables; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    test, validation = read(given.out, "test"), read(given.out, "validation")
    grid = filter_grid(validation["greedy"])
    drop = best({tau: grid[tau] for tau in GRID}, grid[-1.0][1])
    rows = grouped(test, drop)
    order = sorted(rows, key=lambda name: (name[-1].isdigit() and name not in ("gamma0",), name))
    main_table = [figures(name, rows[name]) for name in order if rows[name]]
    few = {name: test[name] for name in COSTLY if test.get(name)}
    if few:
        ids = set.intersection(*({row["image_id"] for row in own} for own in few.values()))
        few = {name: [row for row in own if row["image_id"] in ids] for name, own in few.items()}
        for name in ("head_0", "veto_0"):
            few[name] = [row for row in test[name] if row["image_id"] in ids]
    data = {
        "chosen": json.loads((given.out / "chosen.json").read_text()),
        "filter_on_validation": grid,
        "filter": drop,
        "num_images": len({row["image_id"] for row in rows["greedy"]}),
        "rows": main_table,
        "differences": differences(rows),
        "costly": [figures(name, own) for name, own in few.items()],
        "risk_control": risk(validation["greedy"], test["greedy"]),
    }
    print(data["num_images"], "test images\n" + table(data["rows"]))
    print(table(data["costly"]))
    for pair in data["differences"]:
        print(json.dumps(pair)[:900])
    for name in ("risk_control", "filter_on_validation", "chosen"):
        print(json.dumps(data[name]))
    if given.json:
        given.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
