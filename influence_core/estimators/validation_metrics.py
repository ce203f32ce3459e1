"""Inverse curvatures of the validation loss beside the diagonal one, through random probes."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

from influence_core.curvature import Vectors, linear_loss
from influence_core.data import LabelledDataset
from influence_core.estimators.datainf import DataInf
from influence_core.estimators.ekfac import EKFAC
from influence_core.estimators.hessian_based import HessianBased
from influence_core.estimators.inverse_hessian import LiSSA
from influence_core.estimators.label_norms import label_slopes
from influence_core.gradients import inner_products
from influence_core.losses import Loss
from influence_core.progress import track
from influence_core.study import Study, model_outputs

Metric = Literal["diagonal", "ekfac", "lissa", "datainf"]

_SOLVERS: dict[str, type[HessianBased]] = {"ekfac": EKFAC, "lissa": LiSSA, "datainf": DataInf}


def validation_solver(metric: str, study: Study, model: nn.Module, damping: float) -> HessianBased:
    """An estimator that solves with the curvature of the validation loss at a tuned model.

    The validation set takes the place of the training set. The weight decay of the training is left out, as it is of
    the diagonal metric: only the damping is added.

    Args:
        metric: "ekfac", "lissa" or "datainf".
        study: whose validation set it is.
        model: the tuned model.
        damping: relative, as in that estimator.

    Returns:
        The estimator, fitted.
    """
    parts = {"model": model, "train": study.split("validation"), "trajectory": None, "weight_decay": 0.0}
    solver = _SOLVERS[metric](damping=damping)  # type: ignore[call-arg]
    return solver.fit(study.replaced(**parts))


def gaussian_probes(model: nn.Module, count: int, seed: int) -> Vectors:
    """Standard normal vectors, parameter name -> ``[R, *shape]``, which the seed and the names determine."""
    probes = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            probes[name] = torch.randn(count, *parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    return probes


def probed_norms(model: nn.Module, loss: Loss, data: LabelledDataset, probes: Vectors, solved: Vectors) -> Tensor:
    r"""Mean over probes of :math:`(g^\top H^{-1} v)(v^\top g)` for every sample, ``[N]``, in one sweep."""
    count = len(next(iter(probes.values())))
    both = {name: torch.cat([probes[name], solved[name]]) for name in probes}
    products = inner_products(model, loss, data, both)
    return (products[:, :count] * products[:, count:]).mean(1)


def probed_label_norms(
    model: nn.Module, loss: Loss, data: LabelledDataset, probes: Vectors, solved: Vectors, labels: int
) -> Tensor:
    r"""The same for every label, from one sweep for each output.

    With :math:`J` the gradients of the outputs, :math:`g_k = J^\top r_k`: the products of J with probes and solved
    probes answer for every label of any loss.

    Args:
        model: in eval mode, outputs [B, O].
        loss: one loss per sample.
        data: N samples.
        probes: parameter name -> [R, *shape].
        solved: the inverse curvature times them.
        labels: K.

    Returns:
        float64 [N, K].
    """
    count = len(next(iter(probes.values())))
    both = {name: torch.cat([probes[name], solved[name]]) for name in probes}
    outputs = model_outputs(model, data).to(next(model.parameters()).device)
    along = torch.eye(outputs.shape[1], device=outputs.device, dtype=outputs.dtype)
    products = torch.stack(
        [
            inner_products(model, linear_loss, data, both, labels=row.expand(len(data), -1))
            for row in track(list(along), "influence of each label")
        ],
        dim=1,
    )
    every = torch.arange(labels, device=outputs.device).expand(len(outputs), -1)
    found = label_slopes(loss, outputs.double(), every) @ products.double()
    return (found[:, :, :count] * found[:, :, count:]).mean(2)
