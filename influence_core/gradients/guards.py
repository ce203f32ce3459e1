"""Refusals: what would make per-sample gradients wrong is named before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.gradients.types import GradientError, MixedSamplesError

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_INSTANCE_NORMS = (nn.modules.instancenorm._InstanceNorm,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)


def check_model(model: nn.Module) -> None:
    """Refuse modules whose output for a sample depends on other samples or on chance.

    Args:
        model: in the state in which it would be swept.

    Raises:
        MixedSamplesError: A BatchNorm takes its statistics from the batch, or an embedding scales its gradient by
            the frequency of words in the batch.
        GradientError: An active dropout, a module that changes its own buffers or parameters, or a parameter or
            buffer that is not finite.
    """
    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, _BATCH_NORMS) and not isinstance(module, _INSTANCE_NORMS):
            if module.training:
                raise MixedSamplesError(
                    f"{label} is in training mode and takes its statistics from the batch; call model.eval() first"
                )
            if module.running_mean is None:
                raise MixedSamplesError(
                    f"{label} keeps no running statistics (track_running_stats=False) and takes them from the batch "
                    "even in eval mode; use GroupNorm, or train it with running statistics"
                )
        if isinstance(module, _INSTANCE_NORMS) and module.training and module.track_running_stats:
            raise GradientError(
                f"{label} is in training mode and would change its running statistics; call model.eval() first"
            )
        if module.training and _drops(module):
            raise GradientError(f"{label} is an active dropout, gradients would be random; call model.eval() first")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            if module.scale_grad_by_freq:
                raise MixedSamplesError(
                    f"{label} has scale_grad_by_freq=True, which scales gradients by frequencies within the batch; "
                    "set it to False"
                )
            if module.max_norm is not None:
                raise GradientError(
                    f"{label} has max_norm set and rewrites its table while it reads it; set it to None"
                )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not _finite(tensor.detach()):
            raise GradientError(f"{name!r} holds values that are not finite (NaN or infinite); load another checkpoint")


def _finite(tensor: Tensor) -> bool:
    # What is not finite never leaves a finite sum, and a sum takes a fifth of the time; it may overflow, though.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _drops(module: nn.Module) -> bool:
    if isinstance(module, _DROPOUTS):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.RReLU)
