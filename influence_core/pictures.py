"""Pictures as files and as HTML: what the app's thumbnails and a notebook's tables show."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from influence_core.data import LabelledDataset
from influence_core.errors import NotSupported


def thumbnail(data: LabelledDataset, index: int, size: int = 96) -> bytes:
    """A picture of a sample as WEBP.

    Small pictures are enlarged without smoothing, so that the pixels the model saw stay visible.

    Args:
        data: images, or a dataset that was given ``pictures``.
        index: sample id, 0 to N - 1.
        size: of the longer side, in pixels.

    Returns:
        The bytes of a WEBP file.

    Raises:
        NotSupported: if the samples are no images and the dataset has no pictures of them.
    """
    image = data.picture(index)
    scale = size / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    buffer = io.BytesIO()
    image.convert("RGB").resize(shape, way).save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()


def data_url(data: LabelledDataset, index: int, size: int = 96) -> str:
    """A picture as a ``data:`` URL, for HTML and Plotly figures that must stand alone."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail(data, index, size)).decode()


def original_url(data: LabelledDataset, index: int, most: int = 1024) -> str:
    """A picture as it is, as a ``data:`` URL that loses nothing: for looking at it closely.

    Args:
        data: images, or a dataset that was given ``pictures``.
        index: sample id, 0 to N - 1.
        most: longer side in pixels beyond which it is made smaller.

    Returns:
        A PNG file in a URL.

    Raises:
        NotSupported: if the samples are no images and the dataset has no pictures of them.
    """
    image = data.picture(index).convert("RGB")
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_html(data: LabelledDataset | None, index: int, caption: str) -> str:
    """A small HTML figure of one sample; every name in it is escaped.

    Args:
        data: for the picture and the names of its given and, where known, true label; without it only the id is shown.
        index: sample id, 0 to N - 1.
        caption: one line under the label, as text.

    Returns:
        A ``<div>`` at least 64 pixels wide; without a picture where the dataset has none.
    """
    image, label = "", ""
    if data is not None:
        given = data.label_text(index)
        true = given if data.true_labels is None else data.label_text(index, true=True)
        label = _name(given) if true == given else f"{_name(given)} (truly {_name(true)})"
        try:
            image = f'<img src="{data_url(data, index, 64)}" width="64" alt="" style="border-radius:4px"><br>'
        except NotSupported:
            image = ""
    text = f"<b>{label}</b><br>" if label else ""
    return (
        f'<div style="text-align:center;min-width:64px">{image}{text}'
        f'<span style="opacity:.7">#{index} · {html.escape(caption)}</span></div>'
    )


def _name(label: str) -> str:
    """A class as HTML; a name written from right to left leaves what stands beside it where it is."""
    return f"<bdi>{html.escape(label)}</bdi>"
