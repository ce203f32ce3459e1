"""A grid of pictures that the browser fetches as they come into view."""

import json
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import streamlit as st
from streamlit.components.v2.types import ComponentRenderer
from torch import Tensor

import influence_core as ic
from parts.studies import picture_url

WORDS = {"flagged": "label suspected wrong", "missing": "no picture"}
"""What the drawn signs say to a screen reader and under the pointer."""

Column: TypeAlias = "str | float | bool | list[Any] | dict[str, Any] | None"
"""One entry of all tiles, as it is sent.

A scalar stands for all tiles; a list has one value per tile; ``{"of": values, "at": indices}`` sends each distinct
value once; ``{"same": name}`` is another column; ``{"join": columns}`` is their texts in one, made in the browser. A
column whose name is no entry of ``Tile`` may serve those."""


class Tile(TypedDict, total=False):
    """One picture.

    Attributes:
        id: sample id, given to ``on_pick``.
        src: path of the picture.
        label: its name, on up to two lines.
        note: a quieter line under it.
        bar: -1 (harmful) to 1 (helpful), drawn from the middle; or 0 to 1 (suspicion), drawn from the left.
        kind: "suspect" for a bar that means suspicion.
        flagged: whether the label is suspect, which draws a frame and a flag.
        before: what stands before ``label``: a line of its own where both are too long for one.
        struck: a label that the picture is said to have but has not, shown struck through before ``label``.
        selected: whether it is the current one.
        badge: a few characters in the corner of the picture, such as "3 of 4".
        link: tiles of one link, in any gallery of the page, light up together under the pointer or focus.
        tip: shown when the pointer rests on it, and said by a screen reader; what it lacks of the other texts is added.
        more: one thing more to say there.
    """

    id: int
    src: str
    label: str
    note: str
    bar: float
    kind: str
    flagged: bool
    before: str
    struck: str
    selected: bool
    badge: str
    link: str
    tip: str
    more: str


@dataclass(frozen=True)
class Tiles:
    """Many pictures, held column by column, so that ten thousand are cheap to make and to send.

    Attributes:
        count: number of tiles n.
        columns: the entries of ``Tile`` that they have, by name.
    """

    count: int
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        """Number of tiles."""
        return self.count

    @staticmethod
    def of(tiles: Sequence[Tile]) -> "Tiles":
        """The same tiles as columns."""
        names = dict.fromkeys(name for tile in tiles for name in tile)
        return Tiles(len(tiles), {}).adding(**{name: [tile.get(name) for tile in tiles] for name in names})

    @staticmethod
    def of_pictures(data: ic.data.LabelledDataset, ids: Sequence[int] | Tensor, size: int = 96) -> "Tiles":
        """Pictures of samples, without any text yet.

        Args:
            data: a dataset of a study that is open here.
            ids: sample ids, [n].
            size: of the pictures, in pixels; one of ``studies.SIZES``.

        Returns:
            The tiles.
        """
        before, after = picture_url(data, 0, size).rsplit("/0.", 1)
        src = joined(before + "/", {"same": "id"}, "." + after)
        return Tiles(len(ids), {"id": np.asarray(ids, dtype=np.int64).tolist(), "src": src})

    def adding(self, **columns: Any) -> "Tiles":
        """These tiles with more entries, or other ones.

        Args:
            **columns: by name: a value for all tiles; a list, array or tensor with one value per tile; or what
                ``coded`` and ``joined`` give.

        Returns:
            New tiles.

        Raises:
            InvalidInput: if a column has another length than the tiles.
        """
        made = dict(self.columns)
        for name, given in columns.items():
            values = given.tolist() if isinstance(given, (np.ndarray, Tensor)) else given
            if isinstance(values, (list, tuple)):
                if len(values) != self.count:
                    raise ic.InvalidInput(f"{self.count} tiles need as many of {name!r}, not {len(values)}")
                made[name] = _packed(list(values))
            else:
                made[name] = values
        return Tiles(self.count, made)

    def tile(self, index: int) -> Tile:
        """One of them, as the browser reads it.

        Args:
            index: its place, 0 to n - 1.

        Returns:
            Its entries, without those that are ``None``.
        """
        entries = {name: self._value(column, index) for name, column in self.columns.items()}
        return cast(Tile, {n: v for n, v in entries.items() if n in Tile.__annotations__ and v is not None})

    def _value(self, column: Column, index: int) -> Any:
        if isinstance(column, list):
            return column[index]
        if not isinstance(column, dict):
            return column
        if "at" in column:
            return column["of"][column["at"][index]]
        if "same" in column:
            return self._value(self.columns[column["same"]], index)
        return "".join(str(self._value(part, index)) for part in column["join"])


def coded(values: Sequence[Any], codes: Any) -> Column:
    """A column with few distinct values.

    Args:
        values: each of them once.
        codes: which of them each tile has: integers or booleans [n].

    Returns:
        The column.
    """
    return {"of": list(values), "at": np.asarray(codes).astype(np.int64).tolist()}


def joined(*parts: Column) -> Column:
    """A text that the browser puts together: ``joined("#", {"same": "id"}, " · rank ", ranks)``."""
    return {"join": list(parts)}


def isolated(name: str) -> str:
    """A name that may stand in a line of text: one written from right to left would turn around what follows it."""
    plain = {"L", "EN", "ES", "ET", "CS", "WS", "ON", "NSM", "BN"}
    return name if all(unicodedata.bidirectional(c) in plain for c in name) else f"\u2068{name}\u2069"


def _packed(values: list[Any]) -> Column:
    """The smallest column with these values."""
    if not values:
        return None
    if all(isinstance(value, float) for value in values):
        return [round(value, 3) for value in values]
    distinct = {(type(value), value): value for value in values}
    if len(distinct) == 1:
        return values[0]
    if any(not isinstance(value, str) for value in values) and not any(isinstance(value, str) for value in values):
        return [int(value) if isinstance(value, bool) else value for value in values]
    if 2 * len(distinct) <= len(values):
        place = {key: i for i, key in enumerate(distinct)}
        return {"of": list(distinct.values()), "at": [place[type(value), value] for value in values]}
    if None in values:
        return values
    lowest, highest = min(values), max(values)  # what begins these begins all that lie between
    shared = next((i for i, (a, b) in enumerate(zip(lowest, highest, strict=False)) if a != b), len(lowest))
    return joined(lowest[:shared], [value[shared:] for value in values])


@st.cache_resource
def _component() -> ComponentRenderer:
    files = Path(__file__).parent
    return st.components.v2.component(
        "influence_gallery",
        html='<div class="scroller"><div class="grid" role="list"></div></div>',
        css=(files / "gallery.css").read_text(encoding="utf-8"),
        js="\n".join((files / name).read_text(encoding="utf-8") for name in ("gallery_item.js", "gallery.js")),
    )


def gallery(
    tiles: Sequence[Tile] | Tiles,
    key: str,
    size: int = 96,
    on_pick: Callable[[int], None] | None = None,
    height: int | None = None,
    columns: int | None = None,
    label: str = "pictures",
) -> None:
    """Show pictures in a grid; without any, nothing.

    Args:
        tiles: the pictures, in order.
        key: of the widget.
        size: least width of a tile in pixels: tiles widen until they fill the row. With ``columns``, the greatest.
        on_pick: called with the id that was chosen by click, Enter or Space, before the page is drawn again. A dialog
            that the page then opens gives the focus back to that tile when it closes.
        height: most pixels that the grid takes of the page before it scrolls by itself; ``None``: as many as it needs.
        columns: exactly so many tiles in a row, so that the rows of several galleries line up; ``None``: as many as
            fit.
        label: what the pictures are, for a screen reader.
    """
    if not len(tiles):
        return

    def picked() -> None:
        chosen = st.session_state[key].picked
        if on_pick is not None and chosen is not None:
            on_pick(int(chosen))

    shown = tiles if isinstance(tiles, Tiles) else Tiles.of(tiles)
    sent = {
        "key": key,
        "count": len(shown),
        "tiles": shown.columns,
        "size": size,
        "pick": on_pick is not None,
        "height": height,
        "columns": columns,
        "label": label,
        "words": WORDS,
    }
    # as text: Streamlit would look into every list for a table, and put a space after every comma
    _component()(key=key, data=json.dumps(sent, separators=(",", ":"), ensure_ascii=False), on_picked_change=picked)


def train_tiles(
    study: ic.Study,
    ids: Sequence[int] | Tensor,
    flagged: Collection[int] | Tensor = (),
    ranks: Sequence[int] | Tensor | None = None,
    size: int = 96,
) -> Tiles:
    """Training images with their given labels, and their true ones where those are known to differ.

    Args:
        study: whose training set the images are of.
        ids: training ids, [n].
        flagged: training ids whose label the estimator suspects; others than ``ids`` may be among them.
        ranks: place of every training image in the order of suspicion, 1 (most suspicious) to N, [N]: told in the note
            and drawn as a bar.
        size: of the pictures.

    Returns:
        The tiles, linked by their id to those of the same image in other galleries.
    """
    data = study.train
    places = np.asarray(ids, dtype=np.int64)
    suspects = flagged if isinstance(flagged, Tensor) else np.fromiter(flagged, dtype=np.int64, count=len(flagged))
    given = data.labels.numpy()[places]
    true = given if data.true_labels is None else data.true_labels.numpy()[places]
    classes, codes = np.unique(np.stack([given, true]), return_inverse=True)
    given_codes, true_codes = codes.reshape(2, -1)
    names = [data.class_name(int(c)) for c in classes]
    inline = [isolated(name) for name in names]
    wrong = np.where(true_codes == given_codes, 0, true_codes + 1)  # 0: as given, or truth unknown
    number: Column = {"same": "id"}
    tiles = Tiles.of_pictures(data, ids, size).adding(
        label=coded(names, true_codes),
        flagged=np.isin(places, np.asarray(suspects)),
        link=joined("train-", number),
        tip=joined(
            "training image ",
            number,
            ", given label ",
            coded(inline, given_codes),
            coded(["", *(f", truly {name}" for name in inline)], wrong) if wrong.any() else "",
        ),
        note=joined("#", number),
    )
    if wrong.any():
        tiles = tiles.adding(struck=coded([None, *names], np.where(wrong, given_codes + 1, 0)))
    if ranks is None:
        return tiles
    order = np.asarray(ranks, dtype=np.int64)[places]
    return tiles.adding(
        rank=order,
        note=joined("#", number, " · rank ", {"same": "rank"}),
        bar=np.round(1 - (order - 1) / len(data), 3),
        kind="suspect",
    )


def train_tile(study: ic.Study, index: int, flagged: bool, size: int = 96, **more: object) -> Tile:
    """One training image, as ``train_tiles`` shows it.

    Args:
        study: whose training set the image is of.
        index: training id.
        flagged: whether the estimator suspects its label.
        size: of the picture.
        **more: further entries of ``Tile``.

    Returns:
        The tile.
    """
    return train_tiles(study, [index], [index] if flagged else [], size=size).adding(**more).tile(0)
