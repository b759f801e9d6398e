"""LLaVA 1.5, LLaVA-Next and LLaVA-OneVision: image tokens in a row, one position each."""

from visvm.families.base import Family


class Llava(Family):
    """One square crop of the image."""


class LlavaNext(Family):
    """Any-resolution tiles; the number of image tokens depends on the image's shape."""

    image_inputs = ("pixel_values", "image_sizes")
