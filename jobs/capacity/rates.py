"""The rates from which a plan's hours are computed."""

from __future__ import annotations

from pydantic import Field

from visvm.config import Config


class Rates(Config):
    """Rates for the expected time; the defaults are assumptions, none of them measured on a GPU."""

    flops_share: float = Field(0.4, gt=0, le=1, description="share of a GPU's peak, in prefill and training")
    bandwidth_share: float = Field(0.5, gt=0, le=1, description="share of its memory bandwidth, in decoding")
    pass_ms: float = Field(
        30, ge=0, description="minimum of a decoding pass: 32 layers launched without CUDA graphs"
    )
    sentences: float = Field(
        8.2, gt=0, description="sentences per caption (the paper's triples per response)"
    )
    sentence_tokens: float = Field(25, gt=0, description="tokens per sentence")
    longest: float = Field(1.5, ge=1, description="longest candidate of a step divided by the mean")
    seconds_per_image: float | None = Field(
        None, gt=0, description="measured, per actor, or per worker and epoch; replaces all others"
    )
