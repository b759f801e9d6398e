"""Data sets in the form of lmms-eval's tasks, made from the embedded world, for a trial without a network.

    python examples/lmms_eval_data.py runs/lmms_data
    visvm serve
    visvm lmms-eval --endpoint http://127.0.0.1:8000/v1 --data runs/lmms_data --out runs/lmms \
        --tasks pope mmstar cv_bench_2d mmbench_en_dev_static

The world's captioner answers every question with a caption, so the figures mean nothing; that all requests
are answered and scored does. Your own data sets take the same form: ORG/NAME/ with parquet and a README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from visvm.world.coco_export import png
from visvm.world.scenes import CATEGORIES, Layout, layout

Row = dict[str, Any]
LETTERS = "ABCD"
NUM_IMAGES = 32
WHICH = "Which of these is in the image?"


def choices(one: Layout) -> tuple[dict[str, str], str]:
    """Return three absent objects and a present one by their letters, and the letter of the latter."""
    place = one.index % len(LETTERS)
    absent = dict.fromkeys([*one.absent, *(name for name in CATEGORIES if name not in one.names)])
    names = list(absent)[: len(LETTERS) - 1]
    names.insert(place, one.names[0])
    return dict(zip(LETTERS, names, strict=True)), LETTERS[place]


def pope(one: Layout) -> Row:
    """Return a row of POPE: half of the answers are yes."""
    is_there = one.index % 2 == 0
    name = one.names[0] if is_there else one.absent[0]
    question = f"Is there a {name} in the image?"
    return {"question_id": str(one.image_id), "question": question, "answer": "yes" if is_there else "no"}


def mmstar(one: Layout) -> Row:
    """Return a row of MMStar."""
    names, answer = choices(one)
    options = ", ".join(f"{letter}: {name}" for letter, name in names.items())
    kind = {"category": "coarse perception", "l2_category": "image scene and topic"}
    return {"index": one.image_id, "question": f"{WHICH}\nOptions: {options}", "answer": answer, **kind}


def cv_bench(one: Layout) -> Row:
    """Return a row of CV-Bench."""
    names, answer = choices(one)
    options = " ".join(f"({letter}) {name}" for letter, name in names.items())
    prompt = f"{WHICH} Select from the following choices.\n{options}"
    kind = {"type": "2D", "task": "Count", "source": "COCO"}
    return {
        "idx": one.image_id,
        "prompt": prompt,
        "choices": [*names.values()],
        "answer": f"({answer})",
        **kind,
    }


def mmbench(one: Layout) -> Row:
    """Return a row of MMBench."""
    names, answer = choices(one)
    kind = {"hint": "nan", "source": "world", "split": "dev", "category": "scene", "L2-category": "coarse"}
    return {"index": one.image_id, "question": WHICH, "answer": answer, **kind, **names}


# Of each data set: its name, configuration and split, and its row of an image.
DATA_SETS: tuple[tuple[str, str, str, Callable[[Layout], Row]], ...] = (
    ("lmms-lab-encoder/POPE", "default", "test", pope),
    ("Lin-Chen/MMStar", "default", "val", mmstar),
    ("nyu-visionx/CV-Bench", "2D", "test", cv_bench),
    ("lmms-lab-encoder/MMBench", "en", "dev", mmbench),
)


def main(out: str, num_images: int = NUM_IMAGES) -> None:
    """Write all data sets of the first images of the world's test split."""
    layouts = [layout("test", i) for i in range(num_images)]
    images = [{"bytes": png(one), "path": f"{one.image_id}.png"} for one in layouts]
    for name, config, split, make in DATA_SETS:
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{**make(one), "image": file} for one, file in zip(layouts, images, strict=True)]
        Dataset.from_list(rows).cast_column("image", Image()).to_parquet(folder / f"{split}.parquet")
        files = f"[{{split: {split}, path: {split}.parquet}}]"
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config!r}\n  data_files: {files}\n---\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:2])
