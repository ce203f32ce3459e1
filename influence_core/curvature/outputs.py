r"""The loss as seen from the model's outputs: what a curvature matrix puts between two Jacobians.

With outputs o of a sample, the loss Hessian :math:`C = \nabla_o^2 \ell` gives the generalized Gauss-Newton matrix
:math:`J^\top C J`. Where one needs C as a mean of outer products :math:`s s^\top`, vectors s at the outputs are drawn
(or enumerated): their gradients :math:`J^\top s` are what layers then see in the backward pass. For cross-entropy,
s = p - e_y with y drawn from the model's own prediction p gives the (true) Fisher matrix.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from influence_core.batches import OUTPUT_MATRICES, id_batches
from influence_core.errors import InvalidInput
from influence_core.gradients import Data, Samples, plain_attention
from influence_core.inputs import Inputs, parts_of
from influence_core.losses import Loss, as_rows, cross_entropy
from influence_core.models.forward import Forward
from influence_core.models.outputs import check_one_shape
from influence_core.progress import tick

Draw = Literal["sampled", "exact", "empirical"]
"""``sampled``: one draw per sample; ``exact``: all K of them; ``empirical``: the gradient with the given label."""

_DRAWS = ("sampled", "exact", "empirical")


def linear_loss(outputs: Tensor, weights: Tensor) -> Tensor:
    """``o . s``, whose gradient at the outputs is s: the loss to sweep with when s is given in place of labels.

    Args:
        outputs: ``[B, ...]``, K numbers for each sample.
        weights: s, ``[B, K]``.

    Returns:
        ``[B]``.
    """
    return (as_rows(outputs) * weights).sum(1)


def at_outputs(model: nn.Module, loss: Loss, data: Data, draw: Draw = "sampled", seed: int = 0) -> list[Tensor]:
    """Vectors s at the outputs, for every sample, such that the sum of their outer products has the mean C.

    What is drawn for a sample depends on the seed and on its input alone, so neither on batches nor on the order of the
    samples; equal inputs draw alike.

    Args:
        model: in eval mode and only read, with outputs ``[B, K]``, or ``[B, ...]`` of K numbers.
        loss: one loss per sample.
        data: as for ``influence_core.gradients.sweep``.
        draw: see ``Draw``. For a loss other than cross-entropy the square root of its Hessian takes the place of the
            softmax: times random signs for ``sampled``, column by column for ``exact``.
        seed: of the draw.

    Returns:
        A list of ``[N, K]``: one tensor, or K for ``exact``.

    Raises:
        InvalidInput: If ``draw`` is unknown.
    """
    if draw not in _DRAWS:
        raise InvalidInput(f"draw is {draw!r}; choose one of {', '.join(map(repr, _DRAWS))}")
    forward, given = Forward(model), loss
    parameter = next(model.parameters())
    samples = Samples(data, None, parameter.device, parameter.dtype)
    pieces: list[list[Tensor]] = []
    check_one_shape(forward, samples)
    for ids in id_batches(len(samples), OUTPUT_MATRICES):
        tick()
        inputs, labels = samples.batch(ids)
        with plain_attention(), torch.no_grad():
            outputs = forward(inputs)
        loss, outputs = on_rows(given, outputs), as_rows(outputs)
        if draw == "empirical":
            found = [output_gradient(loss, outputs, labels)]
        elif given is cross_entropy:
            found = _softmax(
                outputs, _uniform(samples, ids, inputs, seed).to(outputs.device) if draw == "sampled" else None
            )
        else:
            root = _root(output_hessian(loss, outputs, labels))
            if draw == "exact":
                found = list(root.unbind(2))
            else:
                signs = _signs(samples, ids, inputs, outputs.shape[1], seed).to(root)
                found = [(root @ signs[:, :, None])[:, :, 0]]
        pieces.append(found)
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


def on_rows(loss: Loss, outputs: Tensor) -> Loss:
    """The same loss of outputs as rows ``[B, K]``; it sees them in the shape that they have."""
    return loss if outputs.dim() == 2 else _OnRows(loss, tuple(outputs.shape[1:]))


@dataclass(frozen=True)
class _OnRows:
    loss: Loss
    shape: tuple[int, ...]

    def __call__(self, rows: Tensor, labels: Any) -> Tensor:
        return self.loss(rows.reshape(len(rows), *self.shape), labels)


def output_gradient(loss: Loss, outputs: Tensor, labels: Any) -> Tensor:
    """Gradient of each sample's loss with respect to its outputs, ``[B, K]``."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = outputs.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return gradient.detach()


def output_hessian(loss: Loss, outputs: Tensor, labels: Any) -> Tensor:
    """Hessian of each sample's loss with respect to its outputs, ``[B, K, K]``."""
    if loss is cross_entropy:
        p = outputs.detach().softmax(1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    with torch.inference_mode(False), torch.enable_grad():
        leaf = outputs.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf, create_graph=True)
        if not gradient.requires_grad:  # a loss that is linear in the outputs
            return leaf.new_zeros(*leaf.shape, leaf.shape[1])
        columns = [
            torch.autograd.grad(gradient[:, k].sum(), leaf, retain_graph=True, allow_unused=True)[0]
            for k in range(leaf.shape[1])
        ]
    return torch.stack([torch.zeros_like(leaf) if c is None else c for c in columns], dim=2).detach()


def output_product(loss: Loss, outputs: Tensor, labels: Any, change: Tensor) -> Tensor:
    """Hessian of each sample's loss in its outputs, times a change of them.

    Args:
        loss: one loss per sample.
        outputs: ``[B, ...]``, K numbers for each sample.
        labels: of the samples.
        change: ``[B, K]``.

    Returns:
        ``[B, K]``; the matrices ``[B, K, K]`` are not formed.
    """
    if loss is cross_entropy and outputs.dim() == 2:
        p = outputs.detach().softmax(1)
        return p * (change - (p * change).sum(1, keepdim=True))
    with torch.inference_mode(False), torch.enable_grad():
        leaf = outputs.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros_like(change)
        (product,) = torch.autograd.grad(gradient, leaf, change.detach().reshape(gradient.shape), allow_unused=True)
    return torch.zeros_like(change) if product is None else as_rows(product).detach()


def _softmax(outputs: Tensor, uniform: Tensor | None) -> list[Tensor]:
    """Columns ``sqrt(p_k) (p - e_k)`` for all k, or ``p - e_y`` with y drawn by the inverse of the distribution."""
    p = outputs.softmax(1)
    classes = p.shape[1]
    if uniform is None:
        unit = torch.eye(classes, device=p.device, dtype=p.dtype)
        return [p[:, k : k + 1].sqrt() * (p - unit[k]) for k in range(classes)]
    drawn = (p.double().cumsum(1) < uniform[:, None]).sum(1).clamp_(max=classes - 1)
    return [p - torch.nn.functional.one_hot(drawn, classes).to(p.dtype)]


def _root(hessian: Tensor) -> Tensor:
    """R with R R' = C for a convex loss; what curves down is left out, as the Gauss-Newton matrix must not."""
    values, vectors = torch.linalg.eigh(hessian.double())
    root: Tensor = vectors * values.clamp_min(0).sqrt()[:, None, :]
    return root.to(hessian.dtype)


def _uniform(samples: Samples, ids: Tensor, inputs: Inputs, seed: int) -> Tensor:
    """A number in [0, 1) for each sample, float64 ``[B]``."""
    drawn = [int.from_bytes(d, "big") / 2**64 for d in _digests(samples, ids, inputs, seed, 8)]
    return torch.tensor(drawn, dtype=torch.float64)


def _signs(samples: Samples, ids: Tensor, inputs: Inputs, count: int, seed: int) -> Tensor:
    """So many signs for each sample, ``[B, count]``."""
    length = math.ceil(count / 8)
    drawn = torch.tensor([list(d) for d in _digests(samples, ids, inputs, seed, length)], dtype=torch.int64)
    bits = (drawn[:, :, None] >> torch.arange(8)) & 1
    return (2 * bits.flatten(1)[:, :count] - 1).double()


def _digests(samples: Samples, ids: Tensor, inputs: Inputs, seed: int, length: int) -> list[bytes]:
    """Random bytes for each sample, from its input; where a batch pads it, from the input alone."""
    batches = [samples.batch(one)[0] for one in ids.split(1)] if samples.pads else [inputs]
    rows: list[bytes] = []
    for batch in batches:
        found = [
            part.detach().cpu().reshape(len(part), -1).contiguous().view(torch.uint8).numpy()
            for part in parts_of(batch)
        ]
        rows += [b"".join(row.tobytes() for row in own) for own in zip(*found, strict=True)]
    return [hashlib.shake_128(f"{seed}:".encode() + row).digest(length) for row in rows]
