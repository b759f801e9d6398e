"""The rates that a plan's hours are computed from."""

from __future__ import annotations

from pydantic import Field

from visvm.config import Config


class Rates(Config):
    """What the time is computed from; the defaults are assumptions, none was measured on a GPU."""

    flops_share: float = Field(0.4, gt=0, le=1, description="of a GPU's peak, in prefill and training")
    bandwidth_share: float = Field(0.5, gt=0, le=1, description="of its memory bandwidth, in decoding")
    pass_ms: float = Field(
        30, ge=0, description="least time of a decoding pass: 32 layers launched without CUDA graphs"
    )
    sentences: float = Field(8.2, gt=0, description="sentences a caption (the paper's triples a response)")
    sentence_tokens: float = Field(25, gt=0, description="tokens a sentence")
    longest: float = Field(1.5, ge=1, description="longest of the candidates of a step, against their mean")
    seconds_per_image: float | None = Field(
        None, gt=0, description="measured, of one actor or (an epoch of) one worker; instead of all others"
    )
