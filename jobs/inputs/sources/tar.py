"""Images of tar files, such as the shards of webdataset."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from jobs.inputs.sources.base import Source, is_image, is_system
from visvm import storage

MAGIC = b"ustar"  # at OFFSET of every header
OFFSET = 257


def is_tar(head: bytes) -> bool:
    """Return whether a file that begins so is a tar file."""
    return head[OFFSET : OFFSET + len(MAGIC)] == MAGIC


def tar_sources(file: str, called: str) -> Iterator[Source]:
    """Yield every image in a tar file ``called`` so, named by that and its path there, to be read by itself.

    Raises:
        ValueError: the file is damaged.
    """
    for name, first, size in storage.reading(file, lambda: list(_members(file))):
        if is_image(name) and not is_system(name):
            yield Source(f"{called}/{name}", f"{file}#bytes={first}-{first + size - 1}")


def _members(file: str) -> Iterator[tuple[str, int, int]]:
    try:
        with storage.open_file(file) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name.removeprefix("./"), member.offset_data, member.size
            opened.seek(archive.offset)  # where tarfile stopped, at a damaged header without a word
            if any(opened.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except tarfile.TarError as error:
        raise ValueError(f"cannot read {file}: {error}") from None
