"""Labels that are known to be wrong because they were made so, and what scores of them say of other labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

STEPS = 500
"""Of the iteration in ``prevalence``."""


def transitions(likely: Tensor, given: Tensor, classes: int) -> Tensor:
    """Which wrong labels are given to images of a class: counted where the given label is not the likely one.

    Args:
        likely: [N], what the images probably are.
        given: [N], their labels.
        classes: K, at least 2.

    Returns:
        [K, K], float64: to each likely class, the shares of the wrong labels; rows of sum 1 with 0 on the diagonal.
        Every pair counts once more than it was seen, so that a class of which no wrong label is known has all alike.
    """
    counts = torch.bincount(likely.cpu() * classes + given.cpu(), minlength=classes**2).double() + 1
    counts = counts.reshape(classes, classes).fill_diagonal_(0)
    return counts / counts.sum(1, keepdim=True)


def plant(labels: Tensor, share: float, wrong: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give some images a wrong label.

    Args:
        labels: [n], right ones.
        share: of the images; rounded, at least one of them and not all.
        wrong: [K, K], from ``transitions``.
        generator: that draws them.

    Returns:
        The labels [n], and which of them are wrong now, bool [n].
    """
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    planted = torch.zeros(len(labels), dtype=torch.bool)
    planted[chosen] = True
    found = labels.clone()
    found[chosen] = torch.multinomial(wrong[labels[chosen]], 1, generator=generator)[:, 0]
    return found, planted


def logit_ranks(values: Tensor, among: Tensor) -> Tensor:
    """Where values stand among others, on the logistic scale: comparable between fits, whatever their units.

    Args:
        values: [n].
        among: [N]; equal values share their mean rank.

    Returns:
        [n], float64: the logit of rank / (N + 1).
    """
    ordered, asked = among.double().sort().values, values.double()
    rank = (torch.searchsorted(ordered, asked) + torch.searchsorted(ordered, asked, right=True)) / 2 + 0.5
    return torch.logit(rank.double() / (len(ordered) + 1))


def logistic(features: Tensor, positive: Tensor, penalty: float = 0.01) -> Tensor:
    """Logistic regression with weights that are not negative, so that a larger feature never means less.

    The targets are Platt's (1999): not 0 and 1 but as if one more image of the other kind had been seen, so that
    kinds that a feature tells apart entirely do not end in certainty.

    Args:
        features: [n, d], float64.
        positive: bool [n], of both kinds.
        penalty: of half the sum of the squared weights, beside the sum of the losses; not of the intercept.

    Returns:
        [1 + d], float64: intercept and weights.
    """
    from scipy.optimize import minimize

    x = np.column_stack([np.ones(len(features)), features.double().numpy()])
    right = positive.numpy()
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    free = np.array([0.0] + [penalty] * (x.shape[1] - 1))

    def objective(w: Floats) -> tuple[float, Floats]:
        z = x @ w
        loss = float(np.logaddexp(0, z).sum() - target @ z + 0.5 * free @ w**2)
        return loss, x.T @ (1 / (1 + np.exp(-np.clip(z, -500, 500))) - target) + free * w

    bounds = [(None, None)] + [(0.0, None)] * (x.shape[1] - 1)
    found = minimize(objective, np.zeros(x.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B")
    return torch.from_numpy(np.asarray(found.x, dtype=np.float64))


def prevalence(odds: Tensor, share: float) -> float:
    """How many labels are wrong where the share is another one than among the planted flips.

    By expectation and maximisation (Saerens et al. 2002): the share under which the mean probability is that share.

    Args:
        odds: [N], log odds of being wrong under the share of the planted flips.
        share: that one, between 0 and 1.

    Returns:
        The share, above 0 and below 1.
    """
    found = share
    for _ in range(STEPS):
        found = float(shifted(odds, share, found).mean().clamp(1e-6, 1 - 1e-6))
    return found


def shifted(odds: Tensor, share: float, other: float) -> Tensor:
    """Probabilities of being wrong under another share than that under which the odds were learnt.

    Args:
        odds: [N], log odds.
        share: under which.
        other: share that holds.

    Returns:
        [N], 0 to 1.
    """
    move = np.log(other / (1 - other)) - np.log(share / (1 - share))
    return torch.sigmoid(odds + move)
