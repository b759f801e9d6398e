"""The page at /, and the headers that let it run its own script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment

PHOTOS = "llava-hf/llava-v1.6-mistral-7b-hf"  # a captioner that knows photographs
# Test images of the embedded world, one for each kind of scene, chosen because greedy decoding names
# something absent from each of them.
GALLERY = (12, 24, 33, 51, 20, 26, 41, 47)


@cache
def html(policy: str, *, is_world: bool) -> str:
    """Return the page: one file with all it needs.

    ``policy`` is the captioner's name as users know it. ``is_world`` says that it is the embedded one: the
    page then has drawings to choose from, and says that the captioner knows nothing else.
    """
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_source())
    return template.render(policy=policy, gallery=_gallery() if is_world else [], photos=PHOTOS)


@cache
def headers() -> dict[str, str]:
    """Return headers that allow the page's script and style by their hashes, and requests to this server."""
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


def _source() -> str:
    return Path(__file__).with_name("page.html").read_text()


def _gallery() -> list[dict[str, str]]:
    """Return the drawings as data: URLs of the very files that ``visvm world make`` writes."""
    from visvm.world.coco_export import png
    from visvm.world.scenes import layout

    layouts = [layout("test", index) for index in GALLERY]
    return [
        {
            "url": f"data:image/png;base64,{base64.b64encode(png(one)).decode()}",
            "title": f"Drawing: {one.scene}",
        }
        for one in layouts
    ]


def _hash(tag: str) -> str:
    [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", _source(), flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
