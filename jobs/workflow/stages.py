"""The stages of demo, reproduce and self-train: each is another job's work in its own run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import caption, evaluate, export, finetune, generate_triples, train_value, world
from jobs.inputs.shared_paths import SharedPaths
from jobs.runner.run_folder import RunFolder, read_json
from visvm import storage
from visvm.config import Config, load

Options = Mapping[str, Any]
Metrics = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """Runs stages in folders below ``out``; a stage that has already finished is not run again.

    ``common`` are config fields of every stage that runs a policy.
    """

    out: str
    seed: int
    common: Options
    shared_paths: bool = False

    def images(self, name: str, **options: Any) -> str:
        """Make images of the embedded world; return their folder."""
        self.run(name, world.make, world.MakeConfig, options)
        return self.path(name)

    def rollouts(self, name: str, images: str, **options: Any) -> Metrics:
        """Generate a policy's responses to images, with rewards; return the metrics."""
        given = {"images": images, "seed": self.seed, **self.common, **options}
        return self.run(name, generate_triples.work, generate_triples.GenerateConfig, given)

    def value(self, name: str, rollouts: str, **options: Any) -> Metrics:
        """Train a value model on the rollouts of the stage ``rollouts``; return the metrics."""
        given = {"rollouts": (f"{self.path(rollouts)}/rollouts",), "seed": self.seed, **options}
        return self.run(name, train_value.work, train_value.TrainValueConfig, given)

    def captions(self, name: str, images: str, **options: Any) -> str:
        """Write captions of images by a method; return their folder."""
        given = {"images": images, "seed": self.seed, **self.common, **options}
        self.run(name, caption.work, caption.CaptionConfig, given)
        return self.path(name)

    def export(self, name: str, captions: str, **options: Any) -> str:
        """Choose what is learned of a run of captions, as ``visvm export`` does; return its folder."""
        self.run(name, export.work, export.ExportConfig, {"captions": (captions,), **options})
        return self.path(name)

    def finetune(self, name: str, captions: str, **options: Any) -> str:
        """Fine-tune the policy on a run of captions or pairs; return the new policy's directory."""
        given = {"captions": (captions,), "seed": self.seed, **options}
        self.run(name, finetune.work, finetune.FinetuneConfig, given)
        return f"{self.path(name)}/model"

    def evaluation(self, name: str, coco: str, captions: Mapping[str, str]) -> Metrics:
        """Evaluate the captions of folders, each under the name of its row; return the metrics."""
        given = {"captions": [f"{row}={path}" for row, path in captions.items()], "coco": coco}
        return self.run(name, evaluate.judge, evaluate.EvaluateConfig, given)

    def metrics(self, name: str) -> Metrics:
        """Return the metrics of a finished stage."""
        return read_json(storage.join(self.path(name), "metrics.json"))

    def path(self, name: str) -> str:
        """Return the folder of a stage."""
        return storage.join(self.out, name)

    @property
    def is_planned(self) -> bool:
        """Return whether the stages are only listed, so that nothing they would read is there."""
        return False

    def run(
        self, name: str, work: Callable[[Any], Metrics], config_class: type[Config], options: Options
    ) -> Metrics:
        """Run a stage that has not finished yet; return its metrics."""
        if issubclass(config_class, SharedPaths):
            options = {**options, "shared_paths": self.shared_paths}
        with RunFolder.of(load(config_class, out=self.path(name), **options)) as folder:
            if folder.complete:
                logger.info("%s: done already", name)
                return self.metrics(name)
            logger.info("%s ...", name)
            started = time.perf_counter()
            metrics = work(folder.config)
            seconds = time.perf_counter() - started
            logger.info("%s took %.0f s", name, seconds)
            folder.finish(metrics | {"stage_seconds": seconds})
            return metrics


def check_options(config_class: type[Config], options: Options, **needed: Any) -> None:
    """Check that a later stage will accept ``options``.

    Raises:
        ValueError: a key is unknown, or a value is impossible.
    """
    load(config_class, **{"out": "out", **needed, **options})
