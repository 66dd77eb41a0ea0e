"""Image files to RGB: (H, W, 3) uint8, whatever the file's own colour mode. JPEG, PNG and WebP, by content.

What a file claims in its header is looked at before anything is decoded, so a bomb costs no memory. Pillow is told
the formats: a TIFF or PostScript file by another name is refused, not parsed. GIF is left out: it is a sequence.
An orientation in a file's EXIF data is ignored, as torchvision's loaders do.
"""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

try:
    import simplejpeg
except ImportError:  # the base install: Pillow gives the same pixels, more slowly
    simplejpeg = None

FORMATS = ("JPEG", "PNG", *(("WEBP",) if features.check("webp") else ()))
READABLE = "JPEG or PNG or WebP"
MAX_PIXELS = 89_478_485
"""Above this an image counts as a decompression bomb, as Pillow has it; the largest of ImageNet has 22 million."""
JPEG_START = b"\xff\xd8\xff"
COLOURS_OF_SIMPLEJPEG = ("RGB", "YCbCr")  # other JPEGs, such as CMYK, have pixels of their own in Pillow
FAILURES = (OSError, SyntaxError, ValueError, MemoryError, NotImplementedError, OverflowError)
"""What Pillow raises on broken files; its own fuzzing allows these. Bombs are refused before."""


def decode_rgb(encoded: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return an encoded image as RGB, with Pillow's pixels.

    Raises:
        ValueError: The bytes are no complete JPEG, PNG or WebP, or claim more than max_pixels.
    """
    if not encoded:
        raise ValueError(f"not a readable {READABLE}: there are no bytes, or the file cannot be opened")
    try:
        if simplejpeg is not None and encoded.startswith(JPEG_START):
            height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
            check_size(width, height, max_pixels)
            if colours in COLOURS_OF_SIMPLEJPEG:
                return simplejpeg.decode_jpeg(encoded, "RGB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        with image:
            check_size(image.width, image.height, max_pixels)
            return pillow_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"not a readable {READABLE}: the bytes begin like none") from error
    except (*FAILURES, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable {READABLE}: {error}") from error


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse what a header claims."""
    if width * height > max_pixels:
        raise ValueError(f"claims {width}x{height} pixels; the limit is {max_pixels}")


def pillow_rgb(image: Any) -> NDArray[np.uint8]:
    """Return a Pillow image of any mode as RGB."""
    if image.mode.startswith("I;16"):  # convert() would cut off grey levels above 255
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    return np.asarray(image.convert("RGB"))
