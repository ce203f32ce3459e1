r"""What is to happen to the training set, and what that does to the weights.

Removing an image, giving it another label or another weight all change the mean loss in the same way: by a sum of
losses with factors,

.. math:: L'(\theta) = L(\theta) + \frac1N\sum_t f_t\, \ell(x_{n_t}, y_t; \theta) .

A removal is one term with :math:`f = -1` and the given label; a new label is that and one with :math:`f = 1` and the
new label; a weight w is one with :math:`f = w - 1`. To first order the minimum moves by
:math:`-H^{-1}\frac1N\sum_t f_t\nabla\ell_t`, whatever the mix.

N stays N: the loss of what is left is :math:`\frac1N\sum_n w_n\ell_n + \frac\lambda2\lVert\theta\rVert^2`. Who trains
anew on the n images that are left, on their *mean* loss, divides by n instead, which is the same as training with
:math:`\lambda n/N`: to compare, give that training the weight decay :math:`\lambda N/n`. It matters for large groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.gradients import Data, Samples, mean_gradient
from influence_core.inputs import Bundle, with_factors, without_factors
from influence_core.losses import Loss


@dataclass(frozen=True)
class DataChange:
    """A change of the training set.

    Attributes:
        ids: the images whose label or weight changes, and no others, int64 [n], ascending.
        labels: their labels afterwards, int64 [n]; the given ones where an image is removed.
        weights: their weights afterwards, float64 [n]; 0 where an image is removed.
        given: their labels before, int64 [n].
        size: N, images in the training set.
        classes: whether labels are classes; where they are not, none changes, and zeros stand for them here.
    """

    ids: Tensor
    labels: Tensor
    weights: Tensor
    given: Tensor
    size: int
    classes: bool = True

    @property
    def removed(self) -> Tensor:
        """Which of the images are left out, boolean [n]."""
        return self.weights == 0

    @property
    def relabelled(self) -> Tensor:
        """Which of the images stay, with another label, boolean [n]."""
        return self.labels != self.given

    @property
    def reweighted(self) -> Tensor:
        """Which of the images stay, with another weight, boolean [n]."""
        return (self.weights != 1) & ~self.removed

    def terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """The losses that are added.

        Returns:
            Ids int64 [T], labels int64 [T] and factors f float64 [T]; the terms with the given labels come first.
        """
        new = self.relabelled
        factors = torch.where(new, torch.full_like(self.weights, -1.0), self.weights - 1.0)
        ids = torch.cat([self.ids, self.ids[new]])
        return ids, torch.cat([self.given, self.labels[new]]), torch.cat([factors, self.weights[new]])

    def of(self, ids: Tensor) -> DataChange:
        """The part of the change that is about some images.

        Args:
            ids: of these images, int64.

        Returns:
            The part; N is that of the whole training set.
        """
        some = torch.isin(self.ids, ids)
        return replace(
            self, ids=self.ids[some], labels=self.labels[some], weights=self.weights[some], given=self.given[some]
        )

    def changed_loss(self, data: LabelledDataset) -> tuple[Tensor, Tensor, Tensor]:
        """The training set afterwards.

        Args:
            data: the training set.

        Returns:
            Ids of the images that are left, int64 [n']; their labels, int64 [n']; and their weights, float64 [n'].
        """
        labels, weights = _labels(data, self.classes), torch.ones(self.size, dtype=torch.float64)
        labels[self.ids], weights[self.ids] = self.labels, self.weights
        left = (weights != 0).nonzero().flatten()
        return left, labels[left], weights[left]


def data_change(
    data: LabelledDataset,
    classes: int | None,
    remove: int | Sequence[int] | Tensor | None = None,
    relabel: Mapping[int, int | str] | None = None,
    weight: Mapping[int, float] | None = None,
) -> DataChange:
    """Check what a caller asks for.

    Args:
        data: the training set.
        classes: K; ``None`` where labels are no classes, so that there are no new ones.
        remove: ids of images to leave out.
        relabel: id -> new label, a number or a class name.
        weight: id -> new weight, 0 or more; every image has weight 1 until now.

    Returns:
        The change.

    Raises:
        InvalidInput: if nothing changes, an id, label or weight makes no sense, or an image is named twice.
        NotSupported: if there are new labels for what has no classes.
    """
    if classes is None and relabel:
        raise NotSupported("relabel needs class labels, and the labels of this study are none: give remove= or weight=")
    removed = _removed(remove, len(data))
    labels = {
        i: _label(label, data, classes or 0) for i, label in _by_id(relabel, len(data), "relabel", "{3: 1}").items()
    }
    weights = {i: _weight(i, w) for i, w in _by_id(weight, len(data), "weight", "{3: 0.5}").items()}
    for what, others in (("a new label", labels.keys()), ("a new weight", weights.keys())):
        both = sorted(others & set(removed))
        if both:
            raise InvalidInput(f"training image {both[0]} is to be removed and to get {what}: choose one of the two")
    weights |= dict.fromkeys(removed, 0.0)
    named = torch.tensor(sorted({*labels, *weights}), dtype=torch.long)
    if not len(named):
        raise InvalidInput("nothing changes: give remove=[3, 17], relabel={5: 2} or weight={9: 0.5}")
    given, factors = _labels(data, classes is not None), torch.ones(len(data), dtype=torch.float64)
    after = given.clone()
    after[list(labels)] = torch.tensor(list(labels.values()), dtype=torch.long)
    factors[list(weights)] = torch.tensor(list(weights.values()), dtype=torch.float64)
    after = torch.where(factors == 0, given, after)
    ids = named[((after != given) | (factors != 1))[named]]
    if not len(ids):
        raise InvalidInput("nothing changes: every new label is the given one, and every new weight is 1")
    return DataChange(ids, after[ids], factors[ids], given[ids], len(data), classes is not None)


def _labels(data: LabelledDataset, classes: bool) -> Tensor:
    return data.labels.clone() if classes else torch.zeros(len(data), dtype=torch.long)


@dataclass(frozen=True)
class Weighted:
    """A loss times a factor for each sample: labels are rows ``[label, factor]``, float64, or come from ``Factored``.

    Attributes:
        loss: one loss per sample.
    """

    loss: Loss

    def __call__(self, outputs: Tensor, rows: Any) -> Tensor:
        """Losses [B], multiplied."""
        if isinstance(rows, Bundle):
            labels, factors = without_factors(rows)
            return self.loss(outputs, labels) * factors.to(outputs.dtype)
        return self.loss(outputs, rows[:, 0].long()) * rows[:, 1].to(outputs.dtype)


class Factored:
    """A dataset for ``Weighted``: its own labels, of any kind, each with the factor of its loss.

    Args:
        data: N samples.
        factors: [N].
        model: whose inputs they are.
    """

    def __init__(self, data: Data, factors: Tensor, model: nn.Module) -> None:
        first = next(model.parameters())
        self._samples, self._factors = Samples(data, None, first.device, first.dtype), factors
        self.pads = self._samples.pads

    def __len__(self) -> int:
        """N."""
        return len(self._samples)

    def batch(self, ids: Tensor) -> tuple[Any, Any]:
        """Inputs, and labels with factors."""
        inputs, labels = self._samples.batch(ids)
        first = labels if isinstance(labels, Tensor) else labels.parts[0]
        return inputs, with_factors(labels, self._factors[ids].to(first.device))


def term_gradient(model: nn.Module, loss: Loss, samples: Data, change: DataChange) -> dict[str, Tensor]:
    r""":math:`-\frac1N\sum_t f_t\nabla\ell_t`: what the inverse curvature turns into a change of the weights.

    Args:
        model: where gradients are taken, in eval mode.
        loss: one loss per sample.
        samples: of the terms, in their order.
        change: of the training set.

    Returns:
        Parameter name -> tensor of its shape.
    """
    ids, labels, factors = change.terms()
    if change.classes:
        rows = torch.stack([labels.double(), -factors], dim=1)
        gradient = mean_gradient(model, Weighted(loss), samples, labels=rows)
    else:
        gradient = mean_gradient(model, Weighted(loss), Factored(samples, -factors, model))
    share = len(ids) / change.size
    return {name: share * g for name, g in gradient.items()}


def checked_ids(given: Any, size: int, split: str) -> Tensor:
    """Ids as a tensor.

    Args:
        given: an id, or several.
        size: of the dataset.
        split: its name, for messages.

    Returns:
        int64 [n].

    Raises:
        InvalidInput: if they are no integers, or out of range.
    """
    example = "test=[3, 17]" if split == "test" else "remove=[3, 17]"
    try:
        ids = torch.as_tensor([given] if isinstance(given, int) else given).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{split} ids are {given!r}; give integers such as {example}") from error
    if ids.numel() == 0:
        raise InvalidInput(f"{split} ids are none; give integers such as {example}")
    if ids.dtype == torch.bool:
        raise InvalidInput(f"{split} ids are a mask; give integers such as {example}: mask.nonzero().flatten()")
    if ids.is_floating_point():
        raise InvalidInput(f"{split} ids are {ids.dtype} with {ids.numel()} values; give integers such as {example}")
    bad = ids[(ids < 0) | (ids >= size)]
    if bad.numel():
        raise InvalidInput(f"there is no {split} image {int(bad[0])}; ids go from 0 to {size - 1}")
    return ids.to(torch.long)


def _removed(given: Any, size: int) -> list[int]:
    scalar = isinstance(given, Tensor) and given.dim() == 0
    if given is None or (isinstance(given, Sized) and not scalar and len(given) == 0):
        return []  # a list that happens to be empty, beside new labels, is no mistake
    ids = checked_ids(given, size, "training")
    if len(ids.unique()) < len(ids):
        raise InvalidInput(f"of the {len(ids)} training ids to remove some are given twice; give each once")
    return ids.tolist()


def _by_id(given: Any, size: int, what: str, example: str) -> dict[int, Any]:
    """What is given for each training image."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInput(f"{what} is {given!r}; give a dict by training image, such as {what}={example}")
    found: dict[int, Any] = {}
    for key, value in given.items():
        index = _plain(key)
        if isinstance(index, bool) or not isinstance(index, Integral):
            raise InvalidInput(f"{what} names the training image {key!r}; give integers such as {what}={example}")
        if not 0 <= int(index) < size:
            raise InvalidInput(f"there is no training image {int(index)}; ids go from 0 to {size - 1}")
        if int(index) in found:
            raise InvalidInput(f"{what} names the training image {int(index)} twice; give each once")
        found[int(index)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """The number in a tensor that is one, such as ``labels[3]``."""
    return value.item() if isinstance(value, Tensor) and value.dim() == 0 else value


def _label(given: Any, data: LabelledDataset, classes: int) -> int:
    if isinstance(given, str):
        names: Iterable[str] = data.class_names or ()
        if given not in names:
            raise InvalidInput(f"there is no class {given!r}; there are {', '.join(names) or 'numbers alone'}")
        return list(names).index(given)
    if isinstance(given, bool) or not isinstance(given, Integral) or not 0 <= int(given) < classes:
        raise InvalidInput(f"the new label {given!r} is no class; labels go from 0 to {classes - 1}")
    return int(given)


def _weight(index: int, given: Any) -> float:
    refusal = InvalidInput(f"the new weight of training image {index} is {given!r}; expected a number of 0 or more")
    if isinstance(given, bool) or not isinstance(given, Real):
        raise refusal
    try:
        weight = float(given)
    except OverflowError as error:
        raise refusal from error
    if not 0 <= weight < math.inf:
        raise refusal
    return weight
