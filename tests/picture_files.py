"""Small picture files of every kind, and folders of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, shape: tuple[int, ...] = (9, 7, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kinds() -> dict[str, bytes]:
    """File name -> content: colour models and depths that people have."""
    colour, grey = Image.fromarray(noise(0)), Image.fromarray(noise(1, (8, 8)))
    clear = Image.fromarray(noise(2, (8, 6, 4)), "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = colour.quantize(8)
    return {
        "colour.png": encoded(colour),
        "colour.jpg": encoded(colour, "JPEG"),
        "colour.bmp": encoded(colour, "BMP"),
        "colour.webp": encoded(colour, "WEBP", lossless=True),
        "grey.png": encoded(grey),
        "grey.jpg": encoded(grey, "JPEG"),
        "clear.png": encoded(clear),
        "grey-clear.png": encoded(clear.convert("LA")),
        "palette.png": encoded(palette),
        "palette-clear.png": encoded(palette, transparency=3),
        "moving.gif": encoded(palette, "GIF", save_all=True, append_images=[palette]),
        "bits.png": encoded(grey.convert("1")),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(colour.convert("CMYK"), "TIFF"),
        "turned.jpg": encoded(colour, "JPEG", exif=exif),
        "small.png": encoded(Image.fromarray(noise(3, (2, 3, 3)))),
    }


def folder(root: Path, classes: int = 3, each: int = 4, size: int = 6) -> Path:
    """``root/class k/i.png``, colour noise that is brighter from class to class."""
    for k in range(classes):
        (root / f"class {k}").mkdir(parents=True)
        for i in range(each):
            pixels = noise(10 * k + i, (size, size, 3)) // 4 + 60 * k
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"class {k}" / f"{i}.png")
    return root
