"""Image files to RGB: (H, W, 3) uint8, whatever the file's own colour mode. JPEG, PNG and WebP only.

An orientation in a file's EXIF data is ignored, as torchvision's loaders do.
"""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

try:
    import simplejpeg
except ImportError:  # the base install: Pillow gives the same pixels, more slowly
    simplejpeg = None

FORMATS = ("JPEG", "PNG", *(("WEBP",) if features.check("webp") else ()))
MAX_PIXELS = 64_000_000
"""Above this an image counts as a decompression bomb; the largest of ImageNet has 22 million."""


def decode_rgb(encoded: bytes) -> NDArray[np.uint8]:
    """Return an encoded image as RGB, with Pillow's pixels.

    Raises:
        ValueError: The bytes are no complete JPEG, PNG or WebP, or claim more than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"claims {image.width}x{image.height} pixels; the limit is {MAX_PIXELS}")
                if simplejpeg is not None and image.format == "JPEG" and image.mode == "RGB":
                    return simplejpeg.decode_jpeg(encoded, "RGB")
                return pillow_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError("not a readable JPEG or PNG or WebP: the bytes begin like none") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable JPEG or PNG or WebP: {error}") from error


def pillow_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a Pillow image of any mode as RGB."""
    if image.mode.startswith("I;16"):  # convert() would cut off grey levels above 255
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    return np.asarray(image.convert("RGB"))
