"""What is wrong with a model: layers that say the same of every sample, weights without gradients or rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.diagnosis.finding import Finding
from influence_core.diagnosis.sample import Part
from influence_core.gradients import coverage, plain_attention
from influence_core.inputs import moved
from influence_core.models import private
from influence_core.study import Study

TRIED = 64
FEW = 8
_MOST = 4
_BY_INPUT = (nn.Embedding, nn.EmbeddingBag)


def check_layers(study: Study, train: Part) -> Iterator[Finding]:
    """Dead layers, and parameters that get no gradient.

    Args:
        study: only read.
        train: samples of the training set.

    Yields:
        One finding of each kind at most; a dead layer explains the missing gradients before it.
    """
    model = private(study.model)
    ids = train.ids[:: max(1, len(train) // TRIED)][:TRIED]
    inputs, labels = train.data.batch(ids)
    kind = next(model.parameters())
    still: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None and not isinstance(module, _BY_INPUT):
            module.register_forward_hook(_watch(name, still, len(ids)))
    with plain_attention(), torch.enable_grad():
        losses = study.loss(model(moved(inputs, kind.device, kind.dtype)), moved(labels, kind.device))
        chosen = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(losses.sum(), list(chosen.values()), allow_unused=True)
    gradients = dict(zip(chosen, found, strict=True))
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if len(ids) >= FEW and still:
        name, module = still[0]
        yield Finding(
            "layer-dead",
            "error",
            f"layer {name or 'the model'} ({type(module).__name__}) gives the same for all of {len(ids)} training "
            "samples",
            "nothing before it can influence an answer, and its weights have no gradients",
            "load the trained weights, ic.models.load_weights(model, file); or train again with a lower learning rate",
        )
    elif len(ids) >= FEW:
        unused += [n for n, gradient in gradients.items() if gradient is not None and not bool(gradient.any())]
    if unused:
        yield Finding(
            "parameters-without-gradient",
            "warning",
            f"{len(unused)} of {len(gradients)} trained parameters get no gradient: {_some(unused)}",
            "no training image could have changed them; curvature of nothing has to be damped away",
            "; ".join(f"model.get_parameter({name!r}).requires_grad_(False)" for name in unused[:_MOST]),
        )


def _watch(name: str, still: list[tuple[str, nn.Module]], count: int) -> Any:
    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != count or not output.is_floating_point():
            return
        rows = output.detach().flatten(1)
        if bool((rows.amax(0) - rows.amin(0) <= 1e-7 * rows.abs().amax(0)).all()):
            still.append((name, module))

    return look


def check_statistics(study: Study) -> Iterator[Finding]:
    """Batch normalisation that has never seen a batch.

    Args:
        study: only read.

    Yields:
        One finding at most.
    """
    norms = [(n, m) for n, m in study.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [
        name
        for name, m in norms
        if m.num_batches_tracked is not None
        and int(m.num_batches_tracked) == 0
        and m.running_mean is not None
        and m.running_var is not None
        and not bool(m.running_mean.any())
        and bool((m.running_var == 1).all())
    ]
    if fresh:
        yield Finding(
            "batchnorm-without-statistics",
            "error",
            f"{len(fresh)} of {len(norms)} batch normalisations have the statistics that they were made with, mean 0 "
            f"and variance 1: {_some(fresh)}",
            "in eval mode, in which scores are made, the model is another than the one that was trained",
            "ic.models.load_weights(model, file) with the buffers running_mean and running_var; or "
            "ic.training.refresh_statistics on the training images",
        )


def check_rules(study: Study) -> Iterator[Finding]:
    """Parameters whose gradients no layer rule gives.

    Args:
        study: only read.

    Yields:
        One finding at most.
    """
    covered = coverage(study.model)
    if covered.fallback:
        reasons = sorted(set(covered.fallback.values()))
        yield Finding(
            "layers-without-rule",
            "note",
            f"{covered.by_fallback:.1%} of the weights have no layer rule: {_some(list(covered.fallback))} "
            f"({_some(reasons)})",
            "their gradients come from torch.func: right, but slower, and with more memory",
            "nothing has to be done; frozen, they cost nothing: parameter.requires_grad_(False)",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
