"""Sharpness-aware minimisation around any base optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class SAM:
    r"""Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412, eq. 2 and 3).

    One step climbs to the worst point nearby, :math:`\hat\epsilon = \rho\, g / \lVert g\rVert_2`, takes the gradient
    there, and lets the base optimiser go down from the weights it came from. Weight decay belongs to the base
    optimiser, so the ascent follows the gradient of the loss alone.

    Args:
        base: an optimiser over the parameters to train.
        rho: radius of the ascent, in the units of the weights (2-norm over all parameters together).

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> sam = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
        >>> def gradients(second):
        ...     w.grad = w.detach().clone()       # the loss is ||w||^2 / 2
        >>> sam.step(gradients)                   # ascends to 1.1 w, descends by 0.1 * 1.1 w
        >>> w.detach()
        tensor([2.6700, 3.5600])
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        self.base = base
        self.rho = rho

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of the base optimiser."""
        return [p for group in self.base.param_groups for p in group["params"]]

    def step(self, gradients: Callable[[bool], object]) -> None:
        """Take one step.

        Args:
            gradients: fills ``.grad`` with the gradient of the loss on the current batch. It is called with
                ``False`` at the weights and with ``True`` at the perturbed weights, on the same batch.
        """
        self.base.zero_grad()
        gradients(False)
        parameters = [p for p in self.parameters if p.grad is not None]
        before = [p.detach().clone() for p in parameters]
        ascent = perturbation([p.grad for p in parameters if p.grad is not None], self.rho)
        with torch.no_grad():
            for parameter, step in zip(parameters, ascent, strict=True):
                parameter.add_(step)
        try:
            self.base.zero_grad()
            gradients(True)
        finally:
            with torch.no_grad():
                for parameter, old in zip(parameters, before, strict=True):
                    parameter.copy_(old)
        self.base.step()


def perturbation(gradients: Iterable[Tensor], rho: float) -> list[Tensor]:
    r"""The ascent of SAM, :math:`\rho\, g / (\lVert g\rVert_2 + 10^{-12})`.

    Args:
        gradients: of the loss, one tensor per parameter.
        rho: radius.

    Returns:
        One tensor per parameter.
    """
    gradients = list(gradients)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    return [g * (rho / (norm + 1e-12)) for g in gradients]
