"""How frequent the classes are: as labels are given, as a model predicts, and as they truly are."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 200
"""Of the iteration in ``true_frequencies``."""


def frequencies(labels: Tensor, classes: int) -> Tensor:
    """Share of each class among labels, with one more image spread over all classes, so that none is 0.

    Args:
        labels: [N], integers.
        classes: K.

    Returns:
        [K], float64, of sum 1.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes).double() + 1 / classes
    return counts / counts.sum()


def mean_prediction(logs: Tensor) -> Tensor:
    """Mean of predicted probabilities.

    Args:
        logs: [N, K], log probabilities, or logits.

    Returns:
        [K], float64, of sum 1, and none 0.
    """
    found = logs.double().softmax(1).mean(0) + torch.finfo(torch.float32).tiny
    return found / found.sum()


def true_frequencies(outputs: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    r"""How frequent the classes truly are among images whose labels cannot be trusted, by images whose labels can.

    A model takes an image of class k for class j with a probability :math:`C_{jk}` that the clean images tell. With
    :math:`q_j` the share of the other images that it takes for j, their true frequencies are the
    :math:`\tau` that makes :math:`q` most likely, :math:`\max_\tau \sum_j q_j \log (C \tau)_j`: label shift from
    hard predictions (Lipton et al. 2018), solved by expectation and maximisation (Saerens et al. 2002). How frequent
    the classes are among the clean images does not matter.

    It holds where the model errs on both alike. At a model that knows the given labels by heart it returns about their
    frequencies.

    Args:
        outputs: [N, K], of the images in question.
        known: [V, K], of clean images.
        labels: [V], their labels.

    Returns:
        [K], float64, of sum 1, and none 0.
    """
    classes = outputs.shape[1]
    pairs = torch.bincount(known.argmax(1).cpu() * classes + labels.cpu(), minlength=classes**2).double()
    errs = pairs.reshape(classes, classes) + torch.eye(classes, dtype=torch.float64)  # one right image more for each
    errs = errs / errs.sum(0)
    shares = frequencies(outputs.argmax(1), classes)
    found = torch.full((classes,), 1 / classes, dtype=torch.float64)
    for _ in range(STEPS):
        found = found * (errs.T @ (shares / (errs @ found)))
    found = found + torch.finfo(torch.float32).tiny
    return found / found.sum()
