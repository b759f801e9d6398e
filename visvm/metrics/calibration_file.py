"""A calibration: the threshold below which sentences are dropped, and the risk that is promised with it."""

from __future__ import annotations

import json
from typing import Any, Literal

from visvm import models, storage
from visvm.config import Config, validate
from visvm.search.draft import TEMPERATURES

OPTIONS = ("temperatures", "step_size", "min_reward", "min_spread", "unit", "beam_width")  # of the search
SETTINGS = ("policy", "reward", "scorer", *OPTIONS)  # of the job caption


class Calibration(Config):
    """What ``visvm calibrate`` found, and what it holds for: this policy, method and reward, such images."""

    tau: float
    risk: Literal["chair_s", "chair_i"]
    alpha: float
    variant: str = "original"
    num_images: int
    empirical_risk: float
    kept: float
    method: str
    policy: str
    reward: str
    scorer: str | None = None
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    min_reward: float | None = None
    min_spread: float | None = None
    unit: str = "sentence"
    beam_width: int = 1

    def check(self, **settings: Any) -> None:
        """Check that captions are written as those of the calibration were.

        Raises:
            ValueError: naming the first setting that differs.
        """
        for name, value in settings.items():
            if absolute(value) != (own := absolute(getattr(self, name))):
                raise ValueError(
                    f"calibration: made with {name} = {own!r}, and this is {name} = {value!r}: what it"
                    " promises does not hold; use the same, or calibrate again"
                )

    def brief(self) -> dict[str, Any]:
        """Return what each caption reports."""
        return self.model_dump(include={"tau", "risk", "alpha", "num_images"})


def absolute(name: Any) -> Any:
    """Return the absolute path of a model in a local directory, and anything else as it is."""
    return storage.absolute(name) if isinstance(name, str) and models.is_local(name) else name


def read_calibration(path: str) -> Calibration:
    """Return the calibration in a file (a path or a URI).

    Raises:
        ValueError: it cannot be read, or is not one of ``visvm calibrate``.
    """
    try:
        data = json.loads(storage.read(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read calibration {path}: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"cannot read calibration {path}: expected what visvm calibrate writes")
    try:
        return validate(Calibration, data)
    except ValueError as error:
        raise ValueError(f"calibration {path}: {error}") from None
