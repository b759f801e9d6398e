"""Images as a caller has them: a path, a URI, a data: URL, the bytes of a file, or a PIL image."""

from __future__ import annotations

import os

from PIL import Image

from visvm import images
from visvm.records import DecodedImage

ImageLike = str | os.PathLike[str] | bytes | Image.Image | DecodedImage


def read_image(image: ImageLike) -> DecodedImage:
    """Return the decoded image of a path, URI, data: URL, file's bytes, or PIL image.

    Raises:
        ValueError: it is none of these, cannot be read, or is not a usable image.
    """
    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, Image.Image):
        return images.from_pil(image)
    if isinstance(image, bytes):
        return images.decode(image, id="image", uri="the image")
    if not isinstance(image, str | os.PathLike):
        raise ValueError(
            f"image is a {type(image).__name__}; expected a path, URI, data: URL, bytes or PIL image"
        )
    uri = os.fspath(image)
    if uri[:5].lower() == "data:":
        from visvm.fetch import Limits, unpack_data_url  # brings an HTTP client along

        data = unpack_data_url(uri, Limits.model_validate({"max_bytes": images.MAX_BYTES}))
        return images.decode(data, id="image", uri="the data: URL")
    if uri.lower().startswith(("http://", "https://")):
        raise ValueError(f"{uri}: images are not fetched from the web; download it and give the file")
    return images.load(uri)
