"""Load a policy by its name, wherever it runs: in this process, or behind a server."""

from __future__ import annotations

from typing import Any

from visvm.policy import SharedPrefixPolicy
from visvm.server_policy.names import is_server
from visvm.server_policy.policy import ServerPolicy

AnyPolicy = SharedPrefixPolicy | ServerPolicy
SERVERS_OWN = {
    "device",
    "dtype",
    "cache_mb",
    "compile",
    "processor_pixels",
    "max_prompt_tokens",
}  # what a server sees to itself
ITS_CLIENTS = {"seeds"}  # what only the client of a server can be told


def load_policy(name: str, **options: Any) -> AnyPolicy:
    """Return the policy: a directory or hub id is loaded, "http://HOST/v1#MODEL" is asked.

    ``options`` are keywords of ``SharedPrefixPolicy.from_pretrained``, and for a server also ``seeds``:
    whether it is sent any.

    Raises:
        ValueError: the model cannot be loaded, or the server does not serve it.
    """
    served = is_server(name)
    unread = SERVERS_OWN if served else ITS_CLIENTS
    given = {key: value for key, value in options.items() if key not in unread}
    return ServerPolicy(name, **given) if served else SharedPrefixPolicy.from_pretrained(name, **given)
