"""Write searched captions as training data for other programs: TRL, LLaVA, LLaMA-Factory (ShareGPT).

The captions are runs of `visvm caption`; the search's trace holds, for every step, a continuation that was
chosen and others of the same prefix that were not. No Ray is started.

  visvm export --captions runs/captions --to sft --min-coverage 0.6 --out runs/sft
  visvm export --captions runs/captions --to step-dpo --margin 0.5 --out runs/pairs
  visvm export --captions runs/captions --rejected runs/greedy --to dpo --format sharegpt --out runs/dpo

sft: a caption. dpo: whole captions, of --captions against those of --rejected or, of best_of_n, against its
other candidates. step-dpo: the caption so far with the chosen sentence against a rejected one. kto: both
sides of step-dpo, with a label. trl-prm: sentences with a label each, false for a rejected one at the end.
`datasets.load_dataset(OUT)` reads the result; visvm finetune takes that of --format trl.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from jobs.runner.command import run
from jobs.runner.hub import HubOptions
from jobs.runner.inputs import Inputs, stamps
from visvm import storage
from visvm.config import Place

if TYPE_CHECKING:
    from visvm.training.preferences import Pair

COLUMNS = (
    "image_id",
    "uri",
    "content_hash",
    "prompt",
    "method",
    "caption",
    "sentences",
    "finish_reason",
    "trace",
)
logger = logging.getLogger(__name__)
Row = Mapping[str, Any]


class ExportConfig(HubOptions):
    """The captions, the kind of data and its format, and which captions and pairs are good enough."""

    captions: tuple[Place, ...] = Field(min_length=1, description="run folders of visvm caption")
    to: Literal["sft", "dpo", "step-dpo", "kto", "trl-prm"] = Field(description="kind of training data")
    format: Literal["trl", "llava", "sharegpt"] = Field(
        "trl", description="trl: parquet with images; llava (sft only), sharegpt: data.json and images/"
    )
    out: Place = Field(description="run folder: the data, README.md, metrics.json")
    rejected: tuple[Place, ...] = Field(
        (), description="dpo: runs with other captions of the same images, such as greedy ones"
    )
    margin: float = Field(0.0, ge=0, description="least difference of the values of chosen and rejected")
    distinct: float = Field(
        0.0, ge=0, le=1, description="least share of words that differ between chosen and rejected (Jaccard)"
    )
    max_length_ratio: float | None = Field(
        None, ge=1, description="most words of the longer side for each of the shorter one"
    )
    same_end: bool = Field(
        True,
        description="pairs of sentences: only where both sides end the caption or neither does; other pairs"
        " teach how long captions are",
    )
    max_pairs: int | None = Field(None, ge=1, description="pairs of a caption, those of the largest margin")
    drop_repeated: bool = Field(True, description="sft: drop sentences that repeat an earlier one")
    min_coverage: float = Field(
        0.0,
        ge=0,
        le=1,
        description="leave out captions that name a lower share of the objects that their candidates name",
    )
    base: tuple[Place, ...] = Field((), description="sft: runs of the base policy's captions, to mix in")
    base_share: float = Field(0.0, ge=0, le=1, description="sft: share of the images that get those")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.format == "llava" and self.to != "sft":
            raise ValueError(f"format = llava holds captions only: choose trl or sharegpt for {self.to}")
        if self.format == "sharegpt" and self.to == "trl-prm":
            raise ValueError("to = trl-prm has no form in sharegpt: choose --format trl")
        if self.rejected and self.to != "dpo":
            raise ValueError(f"rejected: only --to dpo compares runs, not {self.to}")
        if bool(self.base) != bool(self.base_share) or (self.base and self.to != "sft"):
            raise ValueError("base and base_share go together, and with --to sft")
        return self

    def inputs(self) -> Inputs:
        """Return the files with the captions."""
        from visvm.tables import table_files

        places = (*self.captions, *self.rejected, *self.base)
        return Inputs(free=stamps(file for place in places for file in table_files(place, "captions")))


def work(config: ExportConfig) -> dict[str, Any]:
    """Choose captions and pairs, then write them with their images."""
    captions = read_traced(config.captions)
    chosen = clean(config, captions)
    paired = list(_with_pairs(config, chosen))
    pairs = [pair for _, own in paired for pair in own]
    if config.to in ("dpo", "step-dpo", "kto") and not pairs:
        raise ValueError(
            f"captions = {', '.join(config.captions)}: no pair in {len(captions)} captions. Pairs need a"
            " search that chooses among candidates (prm, visvm, best_of_n), and a margin, distinct and"
            " max_length_ratio that some pair meets"
        )
    num_rows = (_write_trl if config.format == "trl" else _write_json)(config, paired)
    words = {side: [len(getattr(one, side).split()) for one in pairs] for side in ("chosen", "rejected")}
    metrics = {
        "num_captions": len(captions),
        "num_captions_kept": len(chosen),
        "num_images": len({caption["image_id"] for caption, _ in paired}),
        "num_pairs": len(pairs),
        "num_rows": num_rows,
        "mean_margin": fmean(one.margin for one in pairs) if pairs else None,
        **{f"mean_words_{side}": fmean(found) if found else None for side, found in words.items()},
    }
    logger.info("%(num_rows)d rows of %(num_images)d images", metrics)
    return metrics


def read_traced(places: Iterable[str]) -> list[dict[str, Any]]:
    """Return the captions of runs with their traces, sorted by image, prompt and text.

    Raises:
        ValueError: nothing there, or no table of captions with traces.
    """
    import pyarrow as pa

    from visvm.tables import table_files

    rows: list[dict[str, Any]] = []
    for place in places:
        for file in table_files(place, "captions"):
            try:
                missing = set(COLUMNS) - set(storage.parquet(file).schema_arrow.names)
                rows += [] if missing else storage.read_table(file, COLUMNS).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise ValueError(f"cannot read captions from {file}: {str(error).splitlines()[0]}") from None
            if missing:
                what = f"{', '.join(sorted(missing))} missing"
                raise ValueError(f"{file}: expected captions of visvm caption with their traces; {what}")
    rows = [row for row in rows if (row["caption"] or "").strip()]
    return sorted(rows, key=lambda row: (row["image_id"], row["prompt"], row["caption"]))


def clean(config: ExportConfig, captions: Sequence[Row]) -> Sequence[Row]:
    """Return the captions that are good enough, of --to sft without repeated sentences and mixed.

    Raises:
        ValueError: none is.
    """
    from visvm.training.caption_filter import cleaned, coverage, mixed

    least = config.min_coverage
    found = [row for row in captions if not least or coverage(row) >= least]
    if not found:
        raise ValueError(f"min_coverage = {least} leaves none of {len(captions)} captions")
    if config.to != "sft":
        return found
    found = [cleaned(row, drop_repeated=config.drop_repeated) for row in found]
    return mixed(found, read_traced(config.base), config.base_share) if config.base else found


def _with_pairs(config: ExportConfig, captions: Sequence[Row]) -> Iterator[tuple[Row, list[Pair]]]:
    """Yield each caption with its pairs; --to sft has none.

    Raises:
        ValueError: whole captions are to be compared, and there is nothing to compare them with.
    """
    from visvm.training.preferences import PairOptions, caption_pairs, step_pairs

    options = PairOptions(
        config.margin,
        config.distinct,
        config.max_length_ratio or float("inf"),
        config.same_end and config.to != "dpo",
        config.max_pairs,
    )
    others: dict[str, list[Row]] = {}
    for other in read_traced(config.rejected):
        others.setdefault(other["image_id"], []).append(other)
    for row in captions:
        if config.to == "sft":
            yield row, []
        elif config.rejected:
            yield row, caption_pairs(row, others.get(row["image_id"], []), options)
        elif config.to == "dpo" and row["method"] != "best_of_n":
            raise ValueError(
                f"to = dpo compares whole captions, and {row['method']} has none that it rejected: give"
                " --rejected RUN, or choose --to step-dpo"
            )
        else:
            yield row, step_pairs(row, options)


def _write_trl(config: ExportConfig, paired: Sequence[tuple[Row, list[Pair]]]) -> int:
    """Write OUT/FOLDER/part-*.parquet, with the images' bytes; return the number of rows."""
    import pyarrow as pa

    from jobs.runner.part_files import PartFiles
    from visvm import images
    from visvm.training.export_rows import FOLDERS, features, trl_rows

    folder = storage.join(config.out, FOLDERS[config.to])
    storage.delete(folder)  # of an attempt that was interrupted
    schema, num_rows = features(config.to).arrow_schema, 0
    files = PartFiles(folder, schema, seconds=float("inf"))
    for caption, pairs in paired:
        rows = list(trl_rows(config.to, caption, pairs))
        image = [{"bytes": images.read(caption["uri"]), "path": None}] if rows else []
        files.add(pa.Table.from_pylist([{**row, "images": image} for row in rows], schema=schema))
        num_rows += len(rows)
    files.flush()
    return num_rows


def _write_json(config: ExportConfig, paired: Sequence[tuple[Row, list[Pair]]]) -> int:
    """Write OUT/data.json and OUT/images, for sharegpt dataset_info.json too; return the number of rows."""
    from visvm.training.export_rows import dataset_info, llava_row, sharegpt_rows

    rows: list[dict[str, Any]] = []
    for number, (caption, pairs) in enumerate(paired):
        if pairs or config.to == "sft":
            image = _copy_image(config.out, caption)
            own = [llava_row(caption, image, number)] if config.format == "llava" else []
            rows += own or sharegpt_rows(config.to, caption, pairs, image)
    storage.write(storage.join(config.out, "data.json"), json.dumps(rows, ensure_ascii=False, indent=1))
    if config.format == "sharegpt":
        storage.write(
            storage.join(config.out, "dataset_info.json"), json.dumps(dataset_info(config.to), indent=2)
        )
    return len(rows)


def _copy_image(out: str, caption: Row) -> str:
    """Copy a caption's image to OUT/images under the name of its content; return its path below OUT."""
    from io import BytesIO

    from PIL import Image

    from visvm import images

    data = images.read(caption["uri"])
    suffix = (Image.open(BytesIO(data)).format or "img").lower().replace("jpeg", "jpg")
    name = f"images/{images.content_hash(data)}.{suffix}"
    if not storage.exists(storage.join(out, name)):
        storage.write(storage.join(out, name), data)
    return name


def _next(config: ExportConfig) -> str:
    if config.format == "trl" and config.to in ("sft", "dpo", "step-dpo"):
        learn = f"--objective {config.to} --captions {config.out}"
        return f"visvm finetune --policy POLICY {learn} --out runs/policy"
    return f"datasets.load_dataset({config.out!r}) in Python"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(ExportConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
