"""How much memory an estimator's work will take, from the shapes of what goes through the model."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.batches import FORWARD, batch_size_for
from influence_core.errors import InvalidInput
from influence_core.estimators.work import NUMBER, PRODUCT_BATCH, Work, parameters_of
from influence_core.gradients import Samples, plain_attention, planned, select
from influence_core.inputs import Bundle, moved, parts_of
from influence_core.models import private
from influence_core.study import Study

SWEEP_MIB = 256.0
"""Budget of a sweep's batch, as in ``gradients.sweep``."""

RUN_MIB, CONVOLVED_MIB = 2.0, 15.0
"""What any work takes besides, and one with convolutions: buffers of threads and kernels."""


@dataclass(frozen=True)
class BatchSizes:
    """Bytes that batches of a study take.

    Attributes:
        sweep: of a batch with per-sample gradients.
        forward: of a batch that keeps outputs alone.
        plain: of a sample of a batch of a training.
    """

    sweep: float
    forward: float
    plain: float


def batch_sizes(study: Study) -> BatchSizes:
    """Look at one sample's way through the model.

    Args:
        study: only read.

    Returns:
        The bytes.

    Raises:
        InvalidInput: where per-sample gradients are impossible.
    """
    model = private(study.model)
    first = next(model.parameters())
    selection = select(model)
    with plain_attention():
        plan, _ = planned(model, selection, study.loss, Samples(study.train, None, first.device, first.dtype))
    sweep = plan.bytes_per_sample * batch_size_for(SWEEP_MIB, plan.bytes_per_sample, len(study.train))
    largest, total = _activations(study)
    return BatchSizes(sweep, largest * min(FORWARD, len(study.train)), 2 * total)


def known_sizes(study: Study) -> BatchSizes | None:
    """The same once for a study and process; ``None`` where per-sample gradients are impossible."""
    with _lock:
        if study not in _known:
            try:
                with torch.inference_mode(False):
                    _known[study] = batch_sizes(study)
            except InvalidInput:  # the estimator's own refusal tells
                _known[study] = None
        return _known[study]


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[Study, BatchSizes | None] = weakref.WeakKeyDictionary()


def memory_mib(study: Study, work: Work, what: str, tests: int, sizes: BatchSizes) -> float:
    """Memory of some work at its most, beside the study.

    Args:
        study: to be worked on.
        work: as an estimator states it.
        what: name of the public method.
        tests: number of test images.
        sizes: of the study's batches.

    Returns:
        MiB.
    """
    train = len(study.train)
    batches = [0.0]
    if work.forward:
        batches.append(sizes.forward)
    if work.backward:
        batches.append(sizes.sweep)
    if work.plain:
        recipe = study.trajectory.recipe if study.trajectory is not None else None
        size = PRODUCT_BATCH if recipe is None or not recipe.batch_size else max(recipe.batch_size, 64)
        batches.append(sizes.plain * min(size, PRODUCT_BATCH, train) + 3 * NUMBER * parameters_of(study))
    columns = {"influence": tests, "label_influence": study.num_outputs}.get(what, 1)
    result = 2 * NUMBER * train * columns
    convolved = any(isinstance(module, nn.modules.conv._ConvNd) for module in study.model.modules())
    return RUN_MIB + convolved * CONVOLVED_MIB + (max(batches) + work.held + result) / 2**20


def _activations(study: Study) -> tuple[float, float]:
    """Bytes of one sample: of what goes into and comes out of the largest layer, and of all that layers give."""
    model = private(study.model)
    sizes: list[tuple[float, float]] = []

    def look(_: nn.Module, arguments: Any, output: Any) -> None:
        sizes.append((_bytes(arguments), _bytes(output)))

    for module in model.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(look)
    kind = next(model.parameters())
    inputs = study.train.batch([0])[0]
    with torch.no_grad(), plain_attention():
        model(moved(inputs, kind.device, kind.dtype))
    own = float(sum(part.numel() * part.element_size() for part in parts_of(inputs)))
    return own + max((a + b for a, b in sizes), default=0.0), own + sum(b for _, b in sizes)


def _bytes(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value.numel() * value.element_size())
    if isinstance(value, Bundle):
        return sum(_bytes(part) for part in parts_of(value))
    if isinstance(value, (tuple, list)):
        return sum(_bytes(part) for part in value)
    return 0.0
