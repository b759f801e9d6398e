"""The images that a training will read: checked before it starts, so that it never learns from nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from jobs.inputs.stamps import image_stamps

NUM_READERS = 16
logger = logging.getLogger(__name__)


def check_images(hashes: Mapping[str, str | None], max_error_share: float, *, num_read: int) -> list[str]:
    """Return the images that cannot be used: gone, damaged, or of another content than ``hashes`` say.

    Every image is looked up; of those that are there, ``num_read`` are read, spread evenly.

    Raises:
        ValueError: none of the images can be used.
        RuntimeError: more than ``max_error_share`` of them cannot.
    """
    problems = {uri: "no such file" for uri, stamp in image_stamps(hashes).items() if not stamp}
    there = sorted(hashes.keys() - problems.keys())
    read = there[:: max(1, len(there) // num_read)]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = dict(zip(read, pool.map(lambda uri: _problem(uri, hashes[uri]), read), strict=True))
    bad = {uri: problem for uri, problem in found.items() if problem}
    share = (len(problems) + len(bad) * len(there) / max(1, len(read))) / len(hashes)
    problems |= bad
    if not problems:
        return []
    example = next(iter(problems.items()))
    if share == 1:
        raise ValueError(f"none of the {len(hashes)} images can be used, e.g. {example[0]}: {example[1]}")
    said = f"{share:.2g} of the {len(hashes)} images cannot be used, e.g. {example[0]}: {example[1]}"
    if share > max_error_share:
        raise RuntimeError(f"{said}; that is more than max_error_share = {max_error_share}")
    logger.warning("%s; they are left out", said)
    return sorted(problems)


def _problem(uri: str, content_hash: str | None) -> str | None:
    from visvm import images

    try:
        image = images.load(uri)
    except ValueError as error:
        return str(error)
    is_other = content_hash is not None and image.content_hash != content_hash
    return "it has changed since" if is_other else None
