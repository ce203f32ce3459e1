"""Which class is taken for which."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence_core.errors import InvalidInput
from influence_core.study import Study


def confusion_counts(study: Study, split: str = "test") -> NDArray[np.int64]:
    """How many images of each label get each prediction.

    Args:
        study: whose model predicts.
        split: "train", "test" or "validation".

    Returns:
        [K, K]: label, prediction.
    """
    k = study.num_classes
    cells = study.split(split).labels.numpy() * k + study.predictions(split).numpy()
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def check_class(study: Study, label: int, what: str = "label") -> None:
    """Refuse what is no class of the study.

    Args:
        study: with K classes.
        label: 0 to K - 1.
        what: the name of the argument, for the message.

    Raises:
        InvalidInput: if there is no such class.
    """
    if isinstance(label, bool) or label not in range(study.num_classes):
        raise InvalidInput(f"{what} is {label!r}; give the number of a class, 0 to {study.num_classes - 1}")


def confusions(study: Study, split: str = "test", label: int | None = None) -> pd.DataFrame:
    """The mistakes of a model, class by class: of few classes or of a thousand, the largest first.

    Args:
        study: whose model predicts.
        split: "train", "test" or "validation".
        label: only the mistakes on images of this class.

    Returns:
        One row per pair of classes that has a mistake: label, predicted, label_name, predicted_name, count, and share
        of all images of that label, 0 to 1. Largest count first, then by label and prediction.

    Raises:
        InvalidInput: if there is no such dataset or class.

    Example:
        >>> import influence_core as ic
        >>> ic.evaluation.confusions(ic.demo.digits()).loc[0, ["label", "predicted"]].tolist()
        [3, 7]
    """
    if label is not None:
        check_class(study, label)
    counts = confusion_counts(study, split)
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    if label is not None:
        mistakes[np.arange(len(mistakes)) != label] = 0
    given, predicted = mistakes.nonzero()  # by label, then by prediction
    number = mistakes[given, predicted]
    order = np.argsort(-number, kind="stable")
    given, predicted, number = given[order], predicted[order], number[order]
    names = np.array(study.class_names, dtype=object)
    columns = {
        "label": given,
        "predicted": predicted,
        "label_name": names[given],
        "predicted_name": names[predicted],
        "count": number,
        "share": number / counts.sum(axis=1)[given],
    }
    return pd.DataFrame(columns)
