"""The names of ``visvm.models``, where the jobs used to have them."""

from visvm.models import (
    CLIP,
    PAIRS,
    WORLD,
    check_policy,
    check_reward,
    check_value,
    default_value,
    is_local,
    resolve,
)

__all__ = [
    "CLIP",
    "PAIRS",
    "WORLD",
    "check_policy",
    "check_reward",
    "check_value",
    "default_value",
    "is_local",
    "resolve",
]
