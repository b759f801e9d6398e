"""Load a policy by its name, wherever it runs: in this process, or behind a server."""

from __future__ import annotations

from typing import Any

from visvm.policy import SharedPrefixPolicy
from visvm.server_policy.names import is_server
from visvm.server_policy.policy import ServerPolicy

AnyPolicy = SharedPrefixPolicy | ServerPolicy


def load_policy(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    cache_mb: int | None = None,
    seeds: bool = True,
    **options: Any,
) -> AnyPolicy:
    """Return the policy: a directory or hub id is loaded, "http://HOST/v1#MODEL" is asked.

    ``options`` are fields of ``PolicyOptions``; device, dtype and cache_mb are the server's own affair, and
    ``seeds`` tells whether it is sent any.

    Raises:
        ValueError: the model cannot be loaded, or the server does not serve it.
    """
    if is_server(name):
        return ServerPolicy(name, seeds=seeds, **options)
    return SharedPrefixPolicy.from_pretrained(name, device=device, dtype=dtype, cache_mb=cache_mb, **options)
