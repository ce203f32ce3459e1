"""Scores of labels from outputs alone: whoever has outputs [N, K] can use them, of any model."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.errors import InvalidInput


def label_margins(outputs: Tensor, prior: Tensor | None = None, target: Tensor | None = None) -> Tensor:
    r"""For every label, by how much the best other one is ahead of it, in nats.

    With :math:`\ell_k = \log p_k - \log \pi_k + \log \tau_k`,

    .. math:: m_k = \max_{j \ne k} \ell_j - \ell_k .

    Positive: another label fits better. :math:`\pi` is how frequent the classes are to the model, :math:`\tau` how
    frequent they are in truth: a class that wrong labels were given to is too frequent in :math:`\pi`, and a model
    that was trained on them prefers it. Logits give the same numbers as log probabilities.

    Args:
        outputs: [N, K], logits or log probabilities.
        prior: :math:`\pi` [K]; by default as :math:`\tau`, so that neither counts.
        target: :math:`\tau` [K], to a ``prior``; by default all alike.

    Returns:
        [N, K], in the type of ``outputs``.

    Raises:
        InvalidInput: if shapes do not fit, a frequency is not above 0, or there is a ``target`` to no ``prior``.

    Example:
        >>> import torch
        >>> label_margins(torch.tensor([[2.0, 1.0, 0.0]]))
        tensor([[-1.,  1.,  2.]])
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise InvalidInput(
            f"outputs are {list(outputs.shape)}; a row for each image and two columns or more are needed"
        )
    leads = outputs.clamp_min(torch.finfo(outputs.dtype).min / 4)  # the log of a probability of 0
    if prior is None and target is not None:
        raise InvalidInput("a target corrects a prior: give both, or none")
    if prior is not None:
        leads = leads - _logs(prior, "prior", outputs)
        leads = leads if target is None else leads + _logs(target, "target", outputs)
    best, place = leads.topk(2, dim=1)
    others = best[:, :1].expand_as(leads).clone()
    others.scatter_(1, place[:, :1], best[:, 1:])  # the best label's best other one is the second
    return others - leads


def _logs(shares: Tensor, name: str, outputs: Tensor) -> Tensor:
    if shares.shape != outputs.shape[1:]:
        raise InvalidInput(f"{name} is {list(shares.shape)}; outputs have {outputs.shape[1]} classes")
    if not bool((shares > 0).all()):
        raise InvalidInput(f"{name} has a frequency that is not above 0")
    return shares.to(outputs).log()


def mean_log_probabilities(outputs: list[Tensor]) -> Tensor:
    """Log of the mean of several models' probabilities.

    Args:
        outputs: each [N, K], logits or log probabilities.

    Returns:
        [N, K], float64.
    """
    logs = torch.stack([one.double().log_softmax(1) for one in outputs])
    return logs.logsumexp(0) - torch.tensor(float(len(outputs)), dtype=torch.float64, device=logs.device).log()
