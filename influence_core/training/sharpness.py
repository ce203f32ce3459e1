"""Sharpness-aware optimisers around any base optimiser: SAM, ASAM, F-SAM and LPF-SGD."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

BackwardPass = Callable[..., object]
"""``gradients(frozen)`` adds the gradient of the loss on the current batch to ``.grad``.

``frozen`` says that the pass is one more than an ordinary step has, so that running statistics must stand still.
``LPFSGD`` with M parts calls ``gradients(frozen, part, M)`` and expects the gradient of that part's share of the
batch's mean loss: over all parts the shares add up to it."""

TINY = 1e-12
"""Added to a norm that is divided by: where the gradient is zero, so is the ascent."""


class SharpnessAware(ABC):
    """An optimiser that takes the gradient near the weights instead of at them.

    Weight decay and momentum belong to the base optimiser, so that what moves the weights away and back follows the
    loss alone, and the base optimiser sees the weights themselves.

    Args:
        base: an optimiser over the parameters to train.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of the base optimiser."""
        return [p for group in self.base.param_groups for p in group["params"]]

    @abstractmethod
    def step(self, gradients: BackwardPass) -> None:
        """Take one step.

        Args:
            gradients: fills ``.grad``; see ``BackwardPass``.
        """


class _Ascending(SharpnessAware):
    """One pass at the weights, one at ``w + ascent``, on the same batch."""

    def step(self, gradients: BackwardPass) -> None:
        """Climb, take the gradient there, and go down from the weights.

        Args:
            gradients: called with ``False`` at the weights and with ``True`` at the perturbed weights.
        """
        self.base.zero_grad()
        gradients(False)
        parameters = [p for p in self.parameters if p.grad is not None]
        with moved(parameters, self._ascent(parameters)):
            self.base.zero_grad()
            gradients(True)
        self.base.step()

    @abstractmethod
    def _ascent(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What is added to each parameter; their ``.grad`` is that at the weights."""


class SAM(_Ascending):
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
        >>> def gradients(frozen):
        ...     w.grad = w.detach().clone()       # the loss is ||w||^2 / 2
        >>> sam.step(gradients)                   # ascends to 1.1 w, descends by 0.1 * 1.1 w
        >>> w.detach()
        tensor([2.6700, 3.5600])
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        super().__init__(base)
        self.rho = rho

    def _ascent(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        return perturbation(_gradients(parameters), self.rho)


class ASAM(_Ascending):
    r"""Adaptive sharpness-aware minimisation (Kwon et al. 2021, arXiv:2102.11600, eq. 6, with the 2-norm).

    The neighbourhood scales with the weights, so that rescaling a layer does not change the sharpness:

    .. math:: \hat\epsilon = \rho\, \frac{T_w^2\, g}{\lVert T_w\, g\rVert_2}, \qquad
              T_w = \lvert w\rvert + \eta \ \text{for weights}, \quad 1 \ \text{for biases}.

    Weights are the parameters whose own name has "weight" in it, as in the authors' code; normalisation layers' scales
    are among them.

    Args:
        base: an optimiser over the parameters to train.
        named_parameters: of the model, to tell weights from biases.
        rho: radius, in multiples of the weights. The authors' default is ten times SAM's.
        eta: keeps the neighbourhood of a weight that is zero open.
    """

    def __init__(
        self, base: Optimizer, named_parameters: Iterable[tuple[str, Tensor]], rho: float = 0.5, eta: float = 0.01
    ) -> None:
        super().__init__(base)
        self.rho, self.eta = rho, eta
        self._weights = {id(p) for name, p in named_parameters if "weight" in name.rpartition(".")[2]}

    def _ascent(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        scales = [p.detach().abs() + self.eta if id(p) in self._weights else torch.ones_like(p) for p in parameters]
        scaled = [t * g for t, g in zip(scales, _gradients(parameters), strict=True)]
        return [t * e for t, e in zip(scales, perturbation(scaled, self.rho), strict=True)]


class FSAM(_Ascending):
    r"""Friendly sharpness-aware minimisation, F-SAM (Li et al. 2024, arXiv:2403.12350, Algorithm 1).

    The ascent leaves out the gradient of the whole training loss, which a moving mean of the batches' gradients stands
    for, and keeps what is peculiar to the batch:

    .. math:: d_t = g_t - \sigma\, m_{t-1}, \qquad m_t = \lambda\, m_{t-1} + (1 - \lambda)\, g_t, \qquad
              \hat\epsilon = \rho\, d_t / \lVert d_t\rVert_2 .

    As in the authors' code, the mean of the step before is taken off, and the first step, which has none, climbs along
    :math:`d_0 = m_0 = g_0`. The mean lives in this object: use one for a whole training.

    Args:
        base: an optimiser over the parameters to train.
        rho: radius of the ascent; the authors' scripts use 0.2.
        sigma: share of the mean that is taken off.
        decay: :math:`\lambda`; 0.9 in the authors' class, 0.6 in their scripts.
    """

    def __init__(self, base: Optimizer, rho: float = 0.2, sigma: float = 1.0, decay: float = 0.9) -> None:
        super().__init__(base)
        self.rho, self.sigma, self.decay = rho, sigma, decay
        self._means: dict[int, Tensor] = {}

    def _ascent(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        directions = []
        for parameter, gradient in zip(parameters, _gradients(parameters), strict=True):
            mean = self._means.get(id(parameter))
            if mean is None:
                directions.append(gradient.clone())
                self._means[id(parameter)] = gradient.clone()
            else:
                directions.append(gradient - self.sigma * mean)
                mean.mul_(self.decay).add_(gradient, alpha=1.0 - self.decay)
        return perturbation(directions, self.rho)


class LPFSGD(SharpnessAware):
    r"""Low-pass filter SGD, LPF-SGD (Bisla et al. 2022, arXiv:2201.08025, Algorithm 1).

    The descent follows the loss convolved with a Gaussian, estimated from M parts of the batch, each at weights with a
    noise of its own:

    .. math:: g = \frac1M \sum_{i=1}^M \nabla L_{B_i}(w + \tau_i), \qquad
              \tau_i \sim \mathcal N(0, \gamma^2 \,\mathrm{diag}(\lVert w_{f(j)}\rVert^2)),

    where :math:`\lVert w_{f(j)}\rVert` is the norm of the filter that entry j belongs to: of the row of a matrix or
    kernel, and of the whole of a vector. There is no pass at the weights themselves. The first part's pass is the one
    that moves running statistics: each step then moves them once, as with every other optimiser, and the noise has no
    preferred direction that could bias them, which an ascent has.

    Args:
        base: an optimiser over the parameters to train; with SGD this is LPF-SGD.
        gamma: standard deviation of the noise, relative to the filter's norm.
        parts: M. One part costs no more than a plain step; the authors recommend 8.
        seed: of the noise.
    """

    def __init__(self, base: Optimizer, gamma: float = 0.001, parts: int = 1, seed: int = 0) -> None:
        super().__init__(base)
        self.gamma, self.parts, self.seed = gamma, parts, seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def step(self, gradients: BackwardPass) -> None:
        """Add up the parts' gradients at noisy weights, and go down from the weights.

        Args:
            gradients: called with ``False`` for the first part and ``True`` for others, then the part and M if M > 1.
        """
        self.base.zero_grad()
        parameters = self.parameters
        for part in range(self.parts):
            with moved(parameters, [self._noise(p) for p in parameters]):
                if self.parts == 1:
                    gradients(False)
                else:
                    gradients(part > 0, part, self.parts)
        self.base.step()

    def _noise(self, parameter: Tensor) -> Tensor:
        values = parameter.detach()
        generator = self._generators.get(values.device)
        if generator is None:
            generator = torch.Generator(device=values.device).manual_seed(self.seed)
            self._generators[values.device] = generator
        noise = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
        axes = tuple(range(1, values.dim())) or None
        return noise * (self.gamma * torch.linalg.vector_norm(values, dim=axes, keepdim=values.dim() > 1))


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
    return [g * (rho / (norm + TINY)) for g in gradients]


@contextmanager
def moved(parameters: Sequence[Tensor], by: Sequence[Tensor]) -> Iterator[None]:
    """Let parameters be elsewhere for a while; they come back to the last bit, also after an exception.

    Args:
        parameters: to move.
        by: what is added to each.

    Yields:
        Nothing.
    """
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, by, strict=True):
                parameter.add_(step)
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
