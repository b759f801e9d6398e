"""The page at /, and the headers that let it run its own script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def html() -> str:
    """The page itself, one file with all it needs."""
    return Path(__file__).with_name("page.html").read_text()


@cache
def headers() -> dict[str, str]:
    """The page's script and style by their hashes, requests to this server, images of its own."""
    policy = [
        "default-src 'none'",
        f"script-src {_hash('script')}",
        f"style-src {_hash('style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _hash(tag: str) -> str:
    [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", html(), flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
