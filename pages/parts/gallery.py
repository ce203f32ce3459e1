"""A grid of pictures that the browser fetches as they come into view."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

import influence_core as ic
from parts.studies import picture_url


class Tile(TypedDict, total=False):
    """One picture.

    Attributes:
        id: sample id.
        src: path of the picture.
        label: first line under it.
        note: second, quieter line.
        bar: -1 (harmful) to 1 (helpful), or 0 to 1 (suspicion), drawn under the lines.
        kind: "suspect" for a bar that means suspicion.
        flagged: whether the label is suspect, which draws a frame.
        struck: a label that the picture is said to have but has not, shown struck through before ``label``.
        selected: whether it is the current one.
        tip: shown when the pointer rests on it.
    """

    id: int
    src: str
    label: str
    note: str
    bar: float
    kind: str
    flagged: bool
    struck: str
    selected: bool
    tip: str


@st.cache_resource
def _component() -> ComponentRenderer:
    files = Path(__file__).parent
    return st.components.v2.component(
        "influence_gallery",
        html='<div class="grid" role="list"></div>',
        css=(files / "gallery.css").read_text(encoding="utf-8"),
        js=(files / "gallery.js").read_text(encoding="utf-8"),
    )


def gallery(tiles: Sequence[Tile], key: str, size: int = 96, on_pick: Callable[[int], None] | None = None) -> None:
    """Show pictures in a grid that fills the width.

    Args:
        tiles: the pictures, in order.
        key: of the widget.
        size: width of a tile in pixels.
        on_pick: called with the id that was chosen by click or Enter, before the page is drawn again.
    """

    def picked() -> None:
        chosen = st.session_state[key].picked
        if on_pick is not None and chosen is not None:
            on_pick(int(chosen))

    # as text: a list of dictionaries would be taken for a table
    data = json.dumps({"tiles": list(tiles), "size": size, "pick": on_pick is not None})
    _component()(key=key, data=data, on_picked_change=picked)


def train_tile(study: ic.Study, index: int, flagged: bool, size: int = 96, **more: object) -> Tile:
    """A training image with its given label, and its true one where that is known to differ.

    Args:
        study: whose training set the image is of.
        index: training id.
        flagged: whether the estimator suspects its label.
        size: of the picture.
        **more: further entries of ``Tile``.

    Returns:
        The tile.
    """
    data = study.train
    given = data.class_name(int(data.labels[index]))
    tile: Tile = {"id": index, "src": picture_url(data, index, size), "label": given, "flagged": flagged}
    tip = f"training image {index}, given label {given}"
    if data.true_labels is not None and int(data.true_labels[index]) != int(data.labels[index]):
        true = data.class_name(int(data.true_labels[index]))
        tile |= {"struck": given, "label": true}
        tip += f", truly {true}"
    tile["tip"] = tip + (", flagged as mislabelled" if flagged else "")
    return {**tile, **more}  # type: ignore[typeddict-item]  # the callers pass entries of Tile
