"""Datasets of the ``datasets`` package of Hugging Face as they are; that package is only needed by who brings one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from influence_core.data.dataset import LabelledDataset
from influence_core.data.encoded import EncodedImages
from influence_core.data.images import Transform
from influence_core.data.labels import label_tensor
from influence_core.data.opening import content_of
from influence_core.data.preprocessing import preprocessing
from influence_core.data.sources import Rows
from influence_core.errors import InvalidInput


def hf(
    dataset: Any,
    *,
    image: str = "image",
    label: str = "label",
    true_label: str | None = None,
    class_names: Sequence[str] | None = None,
    transform: Transform | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "images",
) -> LabelledDataset:
    """Take a dataset of Hugging Face, ``datasets.load_dataset(...)["train"]``.

    Pictures stay encoded, and a saved study keeps them so, in a Parquet file beside it.

    Args:
        dataset: a ``datasets.Dataset`` whose image column is a ``datasets.Image`` (``pip install influence-core[hf]``).
        image: its column of pictures.
        label: its column of given labels, integers or a ``ClassLabel``.
        true_label: its column of labels known to be right, where there is one.
        class_names: names in the order of the labels; by default those of the ``ClassLabel``.
        transform: as in ``image_folder``, instead of the next three.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel; one value for grey, three for colour.
        std: of each channel.
        name: what messages call it.

    Returns:
        The dataset.

    Raises:
        InvalidInput: if it is none of these, or a column is missing or of another kind.
    """
    features = getattr(dataset, "features", None)
    if features is None or not hasattr(dataset, "cast_column"):
        hint = " Choose a part of it: dataset['train']." if isinstance(dataset, dict) else ""
        raise InvalidInput(f"a datasets.Dataset of Hugging Face is needed, this is a {type(dataset).__name__}.{hint}")
    for column in (image, label, true_label):
        if column is not None and column not in features:
            raise InvalidInput(f"the dataset has no column {column!r}; its columns are {', '.join(features)}")
    stored = copy.copy(features[image])
    if not hasattr(stored, "decode"):
        raise InvalidInput(f"column {image!r} is {stored}, expected a datasets.Image")
    stored.decode = False
    plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    rows = _Column(plain.cast_column(image, stored), image)
    if class_names is None:
        class_names = getattr(features[label], "names", None)
    given = label_tensor(list(plain[label]), len(rows), f"{name} labels")
    truth = None if true_label is None else label_tensor(list(plain[true_label]), len(rows), f"{name} true labels")
    way = preprocessing(transform, size, mean, std, name)
    images = EncodedImages(Rows(rows), given, preprocessing=way)
    return LabelledDataset(images, true_labels=truth, class_names=class_names, pictures=images.picture, name=name)


class _Column:
    """The bytes of a column of pictures, one at a time."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset = dataset
        self.column = column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> bytes | None:
        from pathlib import Path

        found = self.dataset[int(index)][self.column]
        if found["bytes"] is None and found.get("path"):
            return content_of(Path(found["path"]))
        return found["bytes"]
