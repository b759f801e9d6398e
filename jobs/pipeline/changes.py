"""What changed since the last run of a command: rows of images that changed or are gone are set aside."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.inputs.stamps import image_stamps
from jobs.pipeline.units import keep_ids
from jobs.runner.part_files import PartFiles, parts
from visvm import images, storage

STAMPS = "image_stamps.json"
SET_ASIDE = "set_aside"
NUM_READERS = 16
COLUMNS = ("id", "uri", "content_hash")
logger = logging.getLogger(__name__)


def take_in(units: pa.Table, written: PartFiles) -> pa.Table:
    """Return the units, those done before under their former ids; set aside the rows that no longer hold.

    A row holds while its unit is there and its image has the content that it was made from. Other rows go
    to OUT/set_aside, so that nothing is lost, and their units are done again.
    """
    out = storage.parent(written.folder)
    done = written.columns([name for name in COLUMNS if name in written.schema.names])
    if done.num_rows:
        units = keep_ids(units, done["id"].to_pylist(), done["uri"].to_pylist())
    uris = dict(zip(units["id"].to_pylist(), units["uri"].to_pylist(), strict=True))
    before, now = _stamps_in(out), image_stamps(uris.values())
    rows = done.to_pylist()
    gone = [row["id"] for row in rows if row["id"] not in uris]
    doubtful = [row for row in rows if row["id"] in uris and _may_differ(uris[row["id"]], before, now)]
    changed = _changed(doubtful, uris)
    _tell(before, now, num_changed=len(changed), num_gone=len(gone))
    if gone or changed:
        _set_aside(written, out, [*gone, *changed])
    storage.write(storage.join(out, STAMPS), json.dumps(now))
    return units


def _stamps_in(out: str) -> dict[str, str]:
    """Return the stamps that the last run saw; none if it was of an earlier version or they are damaged."""
    file = storage.join(out, STAMPS)
    try:
        return dict(json.loads(storage.read(file))) if storage.exists(file) else {}
    except (ValueError, TypeError):  # every image is compared by its content then
        return {}


def _may_differ(uri: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    return not now[uri] or before.get(uri) != now[uri]


def _changed(rows: Sequence[Mapping[str, Any]], uris: Mapping[str, str]) -> list[str]:
    """Return the ids of rows whose image has another content than they were made from."""
    hashed = [row for row in rows if row.get("content_hash")]
    places = sorted({uris[row["id"]] for row in hashed})
    with ThreadPoolExecutor(NUM_READERS) as pool:
        contents = dict(zip(places, pool.map(_content_hash, places), strict=True))
    return [row["id"] for row in hashed if contents[uris[row["id"]]] != row["content_hash"]]


def _content_hash(uri: str) -> str | None:
    try:
        return images.content_hash(images.read(uri))
    except ValueError:  # becomes a row of errors/
        return None


def _tell(before: Mapping[str, str], now: Mapping[str, str], *, num_changed: int, num_gone: int) -> None:
    new = len(now.keys() - before.keys()) if before else 0
    if new:
        logger.info("%d images are new since the last run", new)
    if num_changed:
        logger.warning("%d rows are made again: their images have changed", num_changed)
    if num_gone:
        logger.warning("%d rows are of images (or prompts) that are no longer there", num_gone)


def _set_aside(written: PartFiles, out: str, ids: Sequence[str]) -> None:
    """Move the rows with these ids to OUT/set_aside."""
    folder = storage.join(out, SET_ASIDE)
    for part in parts(written.folder):
        rows = storage.read_table(part)
        is_out = pc.is_in(rows["id"], pa.array(ids))
        if pc.any(is_out).as_py():
            aside = PartFiles(folder, rows.schema)  # that of the version that wrote them
            aside.add(rows.filter(is_out))
            aside.flush()  # before they leave their file
            storage.write_table(part, rows.filter(pc.invert(is_out)))
            storage.delete(storage.join(out, "triples", part.rpartition("/")[2]))
    logger.warning("%d rows are set aside in %s", len(ids), folder)
