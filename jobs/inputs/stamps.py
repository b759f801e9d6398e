"""What the results of a job follow from besides its config: its images, its models, what it learns from."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.inputs.shared_paths import marked_fields
from jobs.runner.inputs import Inputs, stamps, stamps_below
from visvm import storage
from visvm.config import MODEL_MARK, Config
from visvm.server_policy.names import is_server
from visvm.tables import table_files


def model_stamps(config: Config) -> dict[str, str]:
    """Return the stamps of the files of every model of a config that is a folder, here or in a store."""
    from visvm.models import is_local

    names = [getattr(config, name) for name, mark in marked_fields(type(config)) if mark == MODEL_MARK]
    folders = [
        name for name in names if name and not is_server(name) and (storage.is_remote(name) or is_local(name))
    ]
    return {file: stamp for folder in folders for file, stamp in stamps_below(folder).items()}


def image_stamps(uris: Iterable[str]) -> dict[str, str]:
    """Return the stamp of each image, that of its file where an image is a part of one.

    An image whose stamp is not known, since its name is no UTF-8, has none.
    """
    from visvm.images import file_of

    files = {}
    for uri in dict.fromkeys(uris):
        try:
            files[uri] = storage.absolute(file_of(uri))
        except OSError:
            files[uri] = ""
    found = stamps(filter(None, files.values()))
    return {uri: found.get(file, "") for uri, file in files.items()}


def training_inputs(config: Config, kind: str, places: Iterable[str]) -> Inputs:
    """Return the tables (``kind``) that a training learns from and its models: none of it may change."""
    files = [file for place in places for file in table_files(place, kind)]
    return Inputs(fixed={**stamps(files), **model_stamps(config)})
