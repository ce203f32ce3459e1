"""Picture files that are not what they seem: turned by the camera, of enormous size, or no files at all."""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import influence_core as ic
from influence_core.data import EncodedImages

ORIENTATION = 0x0112
# what a viewer does for each value of the tag, in numpy
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}
PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50


def encoded(pixels: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def images(*sources: bytes | Path) -> EncodedImages:
    return EncodedImages(list(sources), torch.zeros(len(sources)).long(), None, [0.0], [1.0])


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_picture_is_shown_upright_and_the_input_stays_as_stored(orientation: int, depth: type) -> None:
    pixels = PIXELS.astype(depth) * (257 if depth is np.uint16 else 1)
    data = images(encoded(pixels, orientation))
    assert np.array_equal(np.asarray(data.picture(0)), TURNS[orientation](PIXELS))
    assert torch.equal(data[0][0][0], torch.from_numpy(PIXELS / np.float32(255)))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_tiff_that_pillow_has_turned_is_not_turned_again(orientation: int) -> None:
    data = images(encoded(PIXELS, orientation, "TIFF"))
    assert np.array_equal(np.asarray(data.picture(0)), TURNS[orientation](PIXELS))
    assert np.array_equal(np.asarray(data.picture(0)), (data[0][0][0] * 255).round().byte().numpy())


def test_damaged_notes_of_a_camera_are_passed_over() -> None:
    whole = encoded(PIXELS, 6)
    start = whole.index(b"eXIf") + 4
    damaged = bytearray(whole)
    damaged[start : start + 8] = b"\xff" * 8
    chunk = bytes(damaged[start - 4 : whole.index(b"IDAT") - 8])
    end = whole.index(b"IDAT") - 8
    damaged[end : end + 4] = zlib.crc32(chunk).to_bytes(4, "big")
    assert np.array_equal(np.asarray(images(bytes(damaged)).picture(0)), PIXELS)


def test_a_cut_off_picture_is_named_when_it_is_shown_too() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = encoded(noise, 6)
    with pytest.raises(ic.InvalidInput, match="image 0 cannot be read as a picture"):
        images(whole[: len(whole) // 2]).picture(0)


@pytest.mark.parametrize("most", [99, 40])  # Pillow itself refuses from twice the limit on, and warns below
def test_too_many_pixels_are_refused_before_they_are_decoded(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.png"
    Image.new("L", (10, 10)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    for strict in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(strict)  # type: ignore[arg-type]
            for read in (images(file).picture, images(file).__getitem__):
                with pytest.raises(ic.InvalidInput, match=r"large\.png.*pixels"):
                    read(0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert images(file).picture(0).size == (10, 10)


def test_a_pipe_is_refused_when_the_folder_is_opened_and_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "cat" / "a.png")
    assert len(ic.data.image_folder(tmp_path, mean=[0.0], std=[1.0])) == 1
    pipe = tmp_path / "cat" / "x.png"
    os.mkfifo(pipe)
    with pytest.raises(ic.InvalidInput, match=r"x\.png has the name of a picture"):
        ic.data.image_folder(tmp_path, mean=[0.0], std=[1.0])
    said: list[str] = []

    def read() -> None:
        try:
            images(pipe).picture(0)
        except ic.InvalidInput as error:
            said.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)  # reading it would wait for ever
    assert len(said) == 1
    assert "x.png has the name of a picture" in said[0]
