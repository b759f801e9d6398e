"""Read the parquet files of a run folder."""

from __future__ import annotations

from visvm import storage


def table_files(place: str, kind: str) -> list[str]:
    """Return a parquet file, or those of a folder in order; a run folder stands for its subfolder ``kind``.

    Raises:
        ValueError: ``place`` does not exist or has no parquet files.
    """
    place = storage.absolute(place)
    try:
        if storage.is_file(place):
            return [place]
        for folder in (storage.join(place, kind), place):
            if found := storage.names(folder, "*.parquet"):
                return [storage.join(folder, name) for name in found]
    except OSError as error:
        raise ValueError(f"cannot read {kind} from {place}: {error}") from None
    missing = "no parquet files in it" if storage.exists(place) else "no such file or folder"
    raise ValueError(f"cannot read {kind} from {place}: {missing}")
