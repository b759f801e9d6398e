"""Captions and choices for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from visvm.report.table import Row, name_of


def caption_tree(row: Row, *, trace: bool = True) -> Tree:
    """Return a caption (a row of ``CAPTIONS``) with the candidates of every step below it."""
    title = Text.assemble((str(row["image_id"]), "bold"), f"  {name_of(row['method'])}")
    tree = Tree(title)
    tree.add(Text(row["caption"].strip()))
    if trace:
        for number, step in enumerate(row["trace"], start=1):
            tree.add(step_tree(number, step))
    return tree


def step_tree(number: int, step: Row) -> Tree:
    """Return a step of a search: its candidates, the best value first, the chosen one in bold."""
    tree = Tree(Text(f"sentence {number}", style="dim"))
    for candidate in merged(step):
        times = f" x{candidate['times']}" if candidate["times"] > 1 else ""
        end = "  [ends]" if candidate["finish_reason"] != "sentence" else ""
        mark, style = ("> ", "bold") if candidate["chosen"] else ("  ", "")
        line = f"{mark}{candidate['value']:8.3f}  {candidate['text'].strip()}{end}{times}"
        tree.add(Text(line, style=style))
    return tree


def merged(step: Row) -> list[Row]:
    """Return the candidates of a step, equal ones once with their number, the best value first."""
    chosen = step["candidates"][step["choice"]]
    unique: dict[tuple[str, bool], dict] = {}
    for candidate in [chosen, *step["candidates"]]:
        key = (candidate["text"], candidate["finish_reason"] != "sentence")
        known = unique.setdefault(key, {**candidate, "times": 0, "chosen": candidate is chosen})
        known["times"] += 1
    unique[(chosen["text"], chosen["finish_reason"] != "sentence")]["times"] -= 1  # it was counted twice
    return sorted(unique.values(), key=lambda one: -one["value"])


def rollout_tree(row: Row) -> Tree:
    """Return the responses of an image (a row of ``ROLLOUTS``), each sentence with its reward."""
    tree = Tree(Text.assemble((str(row["image_id"]), "bold"), f"  {row['prompt']}"))
    for response in row["responses"]:
        temperature = response["temperature"]  # imported responses may have none
        said = "temperature unknown" if temperature is None else f"temperature {temperature:.2g}"
        branch = tree.add(Text(said, style="dim"))
        for text, reward in zip(response["sentences"], response["rewards"], strict=True):
            branch.add(Text(f"{reward:8.3f}  {text.strip()}"))
    return tree


def shown_of(num_shown: int, num_all: int, what: Sequence[str]) -> str:
    """Return "3 of 40 captions": how much of a run is shown; ``what`` is the singular and the plural."""
    return f"{num_shown} of {num_all} {what[num_all != 1]}"
