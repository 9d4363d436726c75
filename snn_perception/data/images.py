"""Images of ordinary cameras from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.types import U8, SensorSize


def read_image(path: str | Path, size: SensorSize | None = None) -> U8:
    """Return an image as uint8 [H, W, 3], red first; grey and other colour models are converted.

    Args:
        size: that it must have; an image stored on its side is turned upright as its EXIF says if it then has it.

    Raises:
        EventDataError: if there is no such file, it is no image, is damaged, or has another size.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise EventDataError("images are read with Pillow: pip install pillow") from error
    try:
        with Image.open(path) as file:
            wanted = None if size is None else (size.width, size.height)
            image = file if wanted in (None, file.size) else (ImageOps.exif_transpose(file) or file)
            if wanted not in (None, image.size):
                got = "x".join(map(str, image.size))
                raise EventDataError(f"{path}: expected {size} px, as its annotations say, got {got}; wrong set?")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise EventDataError(f"{path}: no such image; is the set unpacked whole?") from None
    except UnidentifiedImageError:
        raise EventDataError(f"{path}: expected an image such as JPEG or PNG, got something else") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EventDataError(f"{path}: damaged image: {str(error).splitlines()[0]:.120}") from error
