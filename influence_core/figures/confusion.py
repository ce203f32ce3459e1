"""The confusion matrix, of 2 classes or of 1,000, as squares that can be clicked."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from influence_core.errors import InvalidInput
from influence_core.evaluation.confusions import check_class, confusion_counts
from influence_core.figures.squares import Square, shade, square_matrix
from influence_core.figures.style import HARMFUL, MAIN
from influence_core.figures.text import as_lines, as_text
from influence_core.study import Study

_DIM = "rgba(138,143,152,0.3)"  # recedes on light and on dark; squares of this colour carry no number
_NAME = 14  # characters of a class in a title

Counts = NDArray[np.int64]


def confusion_matrix(
    study: Study,
    split: str = "test",
    most: int = 20,
    label: int | None = None,
    selected: tuple[int, int] | None = None,
) -> go.Figure:
    """Confusion matrix of squares that can be clicked; ``customdata`` of a square is (label, prediction, count).

    Of many classes only some are shown, those that are confused beside each other; there ``x`` and ``y`` of a square
    are places, and only ``customdata`` says which classes they are.

    Args:
        study: whose model predicts.
        split: "train", "test" or "validation".
        most: show all classes up to that many; of more, those with the most mistakes as label or prediction.
        label: look at this class: the other rows are dim or, of many classes, only those are shown that it is taken
            for or that are taken for it.
        selected: label and prediction of a square to outline, where it is shown.

    Returns:
        The figure: right answers in blue, mistakes in orange, stronger where there are more.

    Raises:
        InvalidInput: if there is no such dataset or class, or if ``most`` is less than 1.
    """
    if most < 1:
        raise InvalidInput(f"most is {most}; it is how many classes to show, so 1 or more")
    if label is not None:
        check_class(study, label)
    for chosen, what in zip(selected or (), ("the label of selected", "the prediction of selected"), strict=False):
        check_class(study, chosen, what)
    counts = confusion_counts(study, split)
    mistakes = counts - np.diag(counts.diagonal())
    names, all_of_them = study.class_names, len(counts) <= most
    if all_of_them:
        classes, title = np.arange(len(counts)), ""
    elif label is None:
        classes = _most_confused(mistakes, most)
        title = f"the {len(classes)} most confused of {len(counts):,} classes"
        if not mistakes.any():
            title = f"no mistakes; {len(classes)} of {len(counts):,} classes"
    else:
        classes = _confused_with(mistakes, label, most)
        others = len(classes) - 1
        title = f"{as_text(names[label], _NAME)} and {others} class{'' if others == 1 else 'es'} confused with it"
    classes = classes if all_of_them else classes[_in_order(mistakes[np.ix_(classes, classes)])]
    place = {int(c): i for i, c in enumerate(classes)}
    squares = _squares(counts[np.ix_(classes, classes)], classes, names, label if all_of_them else None)
    shown = selected is not None and all(c in place for c in selected)
    return square_matrix(
        squares,
        [names[c] for c in classes],
        rows="label",
        columns_="predicted",
        title=title,
        strong=None if label is None else place[label],
        outlined=(place[selected[0]], place[selected[1]]) if selected is not None and shown else None,
    )


def _squares(counts: Counts, classes: NDArray[Any], names: list[str], label: int | None) -> list[Square]:
    """A square for each pair of classes that occurs, dim outside the row of ``label``."""
    right = np.diag(counts.diagonal())
    largest = {True: max(1, int(right.max(initial=0))), False: max(1, int((counts - right).max(initial=0)))}
    lines = {int(c): as_lines(names[c]) for c in classes}
    found = []
    for row, column in np.argwhere(counts).tolist():
        given, predicted, number = int(classes[row]), int(classes[column]), int(counts[row, column])
        tone, dim = MAIN if row == column else HARMFUL, label not in (None, given)
        found.append(
            Square(
                row,
                column,
                None if dim else number,
                _DIM if dim else shade(tone, number / largest[row == column]),
                f"{number:,} image{'s' if number > 1 else ''}<br>label {lines[given]}<br>predicted {lines[predicted]}",
                (given, predicted, number),
            )
        )
    return found


def _most_confused(mistakes: Counts, most: int) -> NDArray[np.int64]:
    """The classes with the most mistakes, as label or as prediction; without any mistakes the first ones."""
    total = mistakes.sum(axis=0) + mistakes.sum(axis=1)
    order = np.argsort(-total, kind="stable")[:most]
    return order[total[order] > 0] if total.any() else order


def _confused_with(mistakes: Counts, label: int, most: int) -> NDArray[np.int64]:
    """A class, and those that it is taken for or that are taken for it."""
    total = mistakes[label] + mistakes[:, label]
    order = np.argsort(-total, kind="stable")[: most - 1]
    return np.array([label, *order[total[order] > 0]])


def _in_order(mistakes: Counts) -> NDArray[np.int64]:
    """Classes in an order in which those that are confused lie beside each other.

    Hierarchical clustering by how often two classes are confused, either way; of the orders that its tree allows, the
    one whose neighbours are closest (Bar-Joseph et al. 2001, "Fast optimal leaf ordering for hierarchical clustering").

    Args:
        mistakes: [n, n], zeros on the diagonal.

    Returns:
        The places 0 to n - 1, [n].
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(mistakes) < 3:
        return np.arange(len(mistakes))
    distance = 1 / (1.0 + mistakes + mistakes.T)
    condensed = distance[np.triu_indices(len(mistakes), 1)]
    return leaves_list(linkage(condensed, "average", optimal_ordering=True)).astype(np.int64)
