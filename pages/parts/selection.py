"""The one selection that all pages share. It lives in the URL: a reload, Back and a link show what was shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

import streamlit as st

import influence_core as ic

ORDERS = {"suspicion": "most suspicious", "cut": "at the cut"}
"""How the training images of Mislabels are ordered: name in the URL -> words."""
SIZES = {"small": 72, "medium": 96, "large": 144}
"""Width of a tile in pixels, by its name in the URL."""
FILTERS = {"all": "all images", "flagged": "flagged", "differs": "flagged, and the suggestion differs"}
"""Rows of the relabel table: name in the URL -> words."""
SETS = {"flagged": "suspects", "class": "class", "harmful": "harmful"}
"""Training images that What if changes: name in the URL -> words."""
ACTIONS = {"remove": "leave out", "relabel": "relabel"}
"""What it does with them: name in the URL -> words."""
MOST_ESTIMATORS = 4
MOST_IMAGES = 20
CHANGED = 20
"""Images that What if changes where the URL does not say how many, if there are as many."""
SEEDS, MOST_SEEDS = 3, 10
"""Trainings of each kind where the URL does not say how many, and the most."""

_BELOW = {
    "run": ("class", "test", "cell", "flag", "image", "count"),
    "class": ("test", "cell", "image"),
    "cell": ("test", "image"),
    "estimator": (),
    "test": ("image",),
    "set": ("count",),
}
"""Key -> what belongs to its former value, and goes with it."""


@dataclass(frozen=True)
class Selection:
    """What is chosen; ``None`` and empty where the URL names nothing.

    Attributes:
        run: key of the study.
        estimators: lower-case names, in the order they were chosen.
        label: class whose images are shown.
        test: id of a test image.
        cell: a square of the confusion matrix: label, prediction.
        flag: how many training images are flagged, from the most suspicious on.
        order: of the training images on Mislabels, see ``ORDERS``.
        k: training images on each side of an explanation.
        size: of a tile, see ``SIZES``.
        image: the picture whose panel is open: "train" or "test", and its id.
        rows: of the relabel table, see ``FILTERS``.
        set: training images that What if changes, see ``SETS``.
        action: what it does with them, see ``ACTIONS``.
        count: how many of them.
        seeds: trainings of each kind.
        notes: a sentence for each part of the URL that makes no sense.
    """

    run: str
    estimators: tuple[str, ...] = ()
    label: int | None = None
    test: int | None = None
    cell: tuple[int, int] | None = None
    flag: int | None = None
    order: str = "suspicion"
    k: int = 5
    size: str = "medium"
    image: tuple[str, int] | None = None
    rows: str = "flagged"
    set: str = "flagged"
    action: str = "remove"
    count: int | None = None
    seeds: int = SEEDS
    notes: tuple[str, ...] = field(default=())


def read_run(params: Mapping[str, str], known: list[str]) -> tuple[str, list[str]]:
    """The study that the URL names.

    Args:
        params: of the URL.
        known: keys of the studies; the first is opened where none is named.

    Returns:
        Its key, and what to say of a key that is not known.
    """
    run = params.get("run", known[0])
    if run in known:
        return run, []
    return known[0], [f"There is no study “{_short(run)}” open on this server. Here is {known[0]}."]


def read(params: Mapping[str, str], run: str, study: ic.Study, most_flagged: int | None = None) -> Selection:
    """The selection that a URL holds.

    Args:
        params: of the URL.
        run: key of the study.
        study: what ids and names are checked against.
        most_flagged: by default one less than there are training images.

    Returns:
        The selection; what makes no sense is left out and told in ``notes``.
    """
    notes: list[str] = []
    known = {c.name: c for c in shown_estimators()}
    names = [name for name in params.get("estimator", "").lower().split(",") if name]
    if unknown := list(dict.fromkeys(name for name in names if name not in known)):
        others = f", nor {len(unknown) - 1:,} more that the link names" if len(unknown) > 1 else ""
        notes.append(f"There is no estimator “{_short(unknown[0])}” here{others}. Choose one in the sidebar.")
    chosen = tuple(dict.fromkeys(name for name in names if name in known))
    if len(chosen) > MOST_ESTIMATORS:
        notes.append(f"{len(chosen)} estimators are too many side by side. Here are the first {MOST_ESTIMATORS}.")
    label = None
    if "class" in params:
        if params["class"] in study.class_names:
            label = study.class_names.index(params["class"])
        else:
            notes.append(f"There is no class “{_short(params['class'])}” in this study. Here are all classes.")
    test = _number(params, "test", 0, len(study.test) - 1, "test image", notes)
    classes = study.num_classes - 1
    cell = None
    if "cell" in params:
        parts = params["cell"].split(",")
        if len(parts) == 2 and all(_digits(p) and int(p) <= classes for p in parts):
            cell = int(parts[0]), int(parts[1])
        else:
            notes.append(
                f"The square “{_short(params['cell'])}” makes no sense: it is two class numbers from 0 to {classes}, "
                "the label and the prediction. Here are all mistakes."
            )
    return Selection(
        run=run,
        estimators=chosen[:MOST_ESTIMATORS],
        label=label,
        test=test,
        cell=cell,
        flag=_number(params, "flag", 1, most_flagged or len(study.train) - 1, "number of images to flag", notes),
        order=_word(params, "order", ORDERS, "suspicion", notes),
        k=_number(params, "k", 1, MOST_IMAGES, "number of images on each side", notes) or 5,
        size=_word(params, "tiles", SIZES, "medium", notes),
        image=_image(params, study, notes),
        rows=_word(params, "rows", FILTERS, "flagged", notes),
        set=_word(params, "set", SETS, "flagged", notes),
        action=_word(params, "action", ACTIONS, "remove", notes),
        count=_number(params, "count", 1, len(study.train) - 1, "number of images to change", notes),
        seeds=_number(params, "seeds", 1, MOST_SEEDS, "number of trainings", notes) or SEEDS,
        notes=tuple(notes),
    )


def change(**values: object) -> None:
    """Change the selection, in a widget's callback; the page is drawn again with it.

    Args:
        **values: key of the URL -> new value, or ``None`` for what holds by itself. What belongs to the former value
            of a key goes with it.
    """
    chosen = st.query_params.to_dict()
    for key, value in values.items():
        for below in (*(one for one in _BELOW.get(key, ()) if one not in values), key):
            chosen.pop(below, None)
        if value is not None:
            chosen[key] = str(value)
    st.query_params.from_dict(chosen)  # at once: each change of its own would be a place to come Back to


def current() -> dict[str, str]:
    """The URL's parameters, for a link to another page: an open panel and a job stay behind."""
    return {key: value for key, value in st.query_params.to_dict().items() if key not in ("image", "job")}


def link(path: str = "") -> str:
    """The address of what is shown.

    Args:
        path: of the page.

    Returns:
        An address that begins with this server's.
    """
    base = (st.context.url or "").split("?")[0].split("#")[0]
    query = urlencode(current())
    return f"{base}{path}{'?' + query if query else ''}"


def shown_estimators() -> list[type[ic.estimators.Estimator]]:
    """Classes with scores to show: those that explain and detect, that explain, that detect."""
    kinds = ic.estimators.all_estimators()
    both = [c for c in kinds if {"influence", "mislabel_scores"} <= set(c.gives())]
    explain = [c for c in kinds if "influence" in c.gives() and c not in both]
    return [*both, *explain, *(c for c in kinds if "mislabel_scores" in c.gives() and c not in both)]


def without_notes(selection: Selection) -> Selection:
    """The same without what was told already."""
    return replace(selection, notes=())


def _number(params: Mapping[str, str], key: str, low: int, high: int, what: str, notes: list[str]) -> int | None:
    text = params.get(key)
    if text is None:
        return None
    if _digits(text) and low <= int(text) <= high:
        return int(text)
    notes.append(f"There is no {what} “{_short(text)}”: it is a number from {low} to {high:,}.")
    return None


def _word(params: Mapping[str, str], key: str, known: Mapping[str, object], default: str, notes: list[str]) -> str:
    word = params.get(key, default)
    if word in known:
        return word
    notes.append(f"{key}={_short(word)} makes no sense: choose one of {', '.join(known)}.")
    return default


def _image(params: Mapping[str, str], study: ic.Study, notes: list[str]) -> tuple[str, int] | None:
    if "image" not in params:
        return None
    split, _, number = params["image"].partition("-")
    if split in ("train", "test") and _digits(number):
        if int(number) < len(study.split(split)):
            return split, int(number)
        notes.append(f"There is no {split} image {_short(number)}: the last is {len(study.split(split)) - 1:,}.")
    else:
        notes.append(f"image={_short(params['image'])} makes no sense: write train-17, or test-17.")
    return None


def _digits(text: str) -> bool:
    """Whether it is a whole number of a length that makes sense."""
    return text.isascii() and text.isdigit() and len(text) < 16


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
