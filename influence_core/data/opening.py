"""Opening picture files that may be anything: turned by the camera, cut off, of enormous size, or no pictures."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from influence_core.errors import InvalidInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MOST_BYTES = 1 << 30
"""No file larger than this is read as a picture."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name; not EPS, for which it starts another program."""

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # by itself Pillow knows some kinds only once it has met a file of another
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def decoded(content: bytes, what: str, upright: bool = False) -> Image.Image:
    """A picture from the bytes of its file.

    The pixels are those of ``Image.open(file).convert("RGB")``, as torchvision's ``ImageFolder`` reads them, but for
    two kinds: 16 bits a pixel are scaled to 8 instead of cut off at 255, and 32 bits a pixel are refused, because
    nobody knows where their white is.

    Args:
        content: of a PNG, JPEG, WEBP, BMP, TIFF or GIF file.
        what: names the picture in messages.
        upright: turn it as the camera noted in the file (EXIF), which Pillow does for TIFF alone.

    Returns:
        A picture in mode "L" or "RGB".

    Raises:
        InvalidInput: if it cannot be decoded, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_pixels(image)
            image.load()
            if upright:
                _turn_upright(image)
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise InvalidInput(
                    f"{what} has 32 bits a pixel, and nothing says which value is white: save it with 8 or 16"
                )
            return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    except InvalidInput:
        raise
    except (*_UNREADABLE, Image.DecompressionBombWarning) as error:  # the warning where warnings are errors
        raise InvalidInput(f"{what} cannot be read as a picture ({_said(error)}). Remove or replace it.") from error


def check_plain(file: Path) -> None:
    """Refuse a folder, a pipe and a device: opening a pipe waits for ever, and a device may never end.

    Args:
        file: with the name of a picture.

    Raises:
        InvalidInput: if it is none, or its name no file can have.
    """
    if "\0" in str(file):
        raise InvalidInput(
            f"{str(file)!a} is no path of a picture: it has a NUL character, which no file name can have"
        )
    try:
        plain, there = file.is_file(), file.exists()
    except OSError as error:  # a loop of links
        raise InvalidInput(f"{file} cannot be read as a picture ({error.strerror}). Remove or replace it.") from error
    if not plain and there:
        raise InvalidInput(f"{file} has the name of a picture but is no plain file. Remove or rename it.")


def content_of(file: Path) -> bytes:
    """All bytes of a picture file.

    Args:
        file: a plain file of at most ``MOST_BYTES``.

    Returns:
        Its bytes.

    Raises:
        InvalidInput: if it is missing, no plain file or too large.
    """
    check_plain(file)
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be read as a picture ({error.strerror or error}). Remove or replace it."
        ) from error
    if len(content) > MOST_BYTES:
        raise InvalidInput(f"{file} cannot be read as a picture: it is larger than {MOST_BYTES:,} bytes")
    return content


def _said(error: Exception | Warning) -> str:
    """Pillow's words, without the address of what it was given."""
    text = str(error)
    return "it is of no kind that Pillow knows" if text.startswith("cannot identify") else text


def _check_pixels(image: Image.Image) -> None:
    """Refuse a small file that would fill the memory, before it is decoded; Pillow only warns up to twice its limit."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise Image.DecompressionBombError(
            f"it has {image.width:,} x {image.height:,} pixels, more than the {most:,} of PIL.Image.MAX_IMAGE_PIXELS"
        )


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged notes of a camera say nothing, and the pixels are there already
        return
