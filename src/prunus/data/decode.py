"""Compressed images to one uint8 tensor."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.core.errors import Invalid

#: Pillow's modes that are one channel of at most 8 bits; all else of 8 bits becomes red, green, blue.
_GREY = ("1", "L", "LA")


def decode(cells: Iterable[Mapping[str, Any] | None], count: int, where: str) -> Tensor:
    """The images as uint8 [N, C, H, W]: one channel if all are grey, else three (red, green, blue).

    Transparency is dropped, palettes are resolved.

    Args:
        cells: for each image, its file under `"bytes"`, or where that is `None` the file's name under `"path"`.
        count: how many cells there are.
        where: what messages call the images ("train of FOLDER").

    Raises:
        Invalid: if there is no image, one cannot be decoded, has more than 8 bits a channel, or another size.
    """
    images: np.ndarray = np.empty((0, 0, 0, 0), dtype=np.uint8)
    for position, cell in enumerate(cells):
        pixels = _decode_one(cell, f"image {position} in {where}")
        if position == 0:
            images = np.empty((count, *pixels.shape), dtype=np.uint8)
        if pixels.shape[1:] != images.shape[2:]:
            raise Invalid(
                f"image {position} in {where} is {_size(pixels)}, those before it {_size(images[0])} pixels; "
                "allowed: images of one size"
            )
        if len(pixels) > images.shape[1]:
            images = np.repeat(images, 3, axis=1)  # colour after grey: a grey image has three equal channels
        images[position] = pixels
    if not len(images):
        raise Invalid(f"there is no image in {where}")
    return torch.from_numpy(images)


def _decode_one(cell: Mapping[str, Any] | None, which: str) -> np.ndarray:
    from PIL import Image

    if cell is None:
        raise Invalid(f"{which} is missing")
    try:
        with Image.open(BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
            if image.mode.startswith(("I", "F")):
                raise Invalid(f"{which} is of mode {image.mode!r}; allowed: 8 bits a channel")
            mode = "L" if image.mode in _GREY else "RGB"
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except Invalid:
        raise
    except Exception as error:  # a broken file fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Invalid(f"{which} cannot be decoded ({reason[:100]})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[2]}×{pixels.shape[1]}"
