"""Train a model and record its trajectory."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from influence_core.data import LabelledDataset, SampleSet, check_labels, wrap
from influence_core.errors import InvalidInput
from influence_core.gradients import plain_attention
from influence_core.imports import complete_torch
from influence_core.losses import Loss, cross_entropy
from influence_core.models import adapting
from influence_core.progress import contained, track
from influence_core.training.batchnorm import frozen_statistics
from influence_core.training.options import Sharpness, check_sgd
from influence_core.training.randomness import Stream
from influence_core.training.sharpness import SharpnessAware
from influence_core.training.trajectory import Checkpoint, Recipe, Trajectory

Augmentation = Callable[[Tensor], Tensor]
"""Changes a batch of inputs [B, ...] while training; torch's global generator drives it, seeded by ``seed``."""

Watch = Callable[[Tensor, Tensor, Tensor], object]
"""Called with each batch: ids int64 [B], the model's outputs on it (detached), labels [B]."""

OPTIMIZERS = ("sgd", "sam", "asam", "fsam", "lpf")


def cosine(progress: float) -> float:
    """Factor of the learning rate at ``progress`` from 0 to 1: half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def whole(name: str, value: Any) -> int:
    """An argument that has to be an integer.

    Args:
        name: of the argument, for the message.
        value: as given.

    Returns:
        The integer.

    Raises:
        InvalidInput: if it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidInput(f"{name}={value!r}: expected a whole number") from error


def shuffled_ids(size: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of ids, every pass in a new order; a last batch of one sample is left out.

    Args:
        size: number of samples.
        batch_size: of all batches but the last of a pass.
        generator: of the orders.

    Yields:
        Ids, int64 [B].
    """
    while True:
        for ids in torch.randperm(size, generator=generator).split(batch_size):
            if len(ids) > 1 or size == 1:  # batch normalisation has no variance of one sample
                yield ids


def shuffled_batches(
    data: LabelledDataset, batch_size: int, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of ``shuffled_ids``, read.

    Args:
        data: to draw from.
        batch_size: of all batches but the last of a pass.
        generator: of the orders.
        device: to put the batches on.

    Yields:
        Inputs and labels.
    """
    for ids in shuffled_ids(len(data), batch_size, generator):
        inputs, labels = data.batch(ids)
        yield inputs.to(device), labels.to(device)


def fit(
    model: nn.Module,
    train: Dataset[Any],
    *,
    optimizer: str = "sgd",
    epochs: int = 30,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    rho: float | None = None,
    eta: float = 0.01,
    sigma: float = 1.0,
    decay: float = 0.9,
    gamma: float = 0.001,
    parts: int = 1,
    checkpoints: int | None = None,
    loss: Loss = cross_entropy,
    augment: Augmentation | None = None,
    seed: int = 0,
    watch: Watch | None = None,
    title: str | None = None,
) -> Trajectory:
    """Train ``model`` in place with a cosine learning rate and record checkpoints.

    Any number of models may be trained at once, each in a thread of its own; each draws the random numbers that it
    would draw alone (see ``Stream``).

    Args:
        model: to train, on the device it is on; left in eval mode.
        train: map-style dataset of ``(input tensor, label)``.
        optimizer: "sgd", or a sharpness-aware optimiser around SGD: "sam", "asam", "fsam" or "lpf"; see ``SAM``,
            ``ASAM``, ``FSAM`` and ``LPFSGD``.
        epochs: passes over ``train``.
        learning_rate: at the start; half a cosine takes it to 0.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2, on all parameters.
        batch_size: samples per step.
        rho: radius of the ascent of "sam", "asam" and "fsam"; by default 0.05, 0.5 and 0.2.
        eta: of "asam", beside the weights' sizes.
        sigma: of "fsam", share of the mean gradient that its ascent leaves out.
        decay: of the moving mean of "fsam".
        gamma: of "lpf", noise relative to the norms of the filters.
        parts: of "lpf", parts of a batch with noise of their own.
        checkpoints: how many to keep, evenly spaced, the last one at the end; by default 5, or one per epoch where
            there are fewer.
        loss: one loss per sample.
        augment: changes a batch of inputs, or ``None``.
        seed: of the order of the batches and of ``augment``.
        watch: called as ``watch(ids, outputs, labels)`` after each step with the outputs of the step's first forward
            pass, so before the weights change; or ``None``.
        title: of the progress shown.

    Returns:
        The checkpoints, with learning rate and rho, and a recipe that says which optimiser and which options.

    Raises:
        InvalidInput: if an argument makes no sense or the loss stops being finite.
    """
    if optimizer not in OPTIMIZERS:
        raise InvalidInput(f"there is no optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    epochs, batch_size = whole("epochs", epochs), whole("batch_size", batch_size)
    checkpoints = max(1, min(5, epochs)) if checkpoints is None else whole("checkpoints", checkpoints)
    seed = whole("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise InvalidInput(f"seed={seed}: torch takes seeds from -2**63 to 2**64 - 1")
    if epochs < 1 or batch_size < 2 or not 1 <= checkpoints <= epochs:
        raise InvalidInput(
            f"epochs={epochs}, batch_size={batch_size}, checkpoints={checkpoints}: at least one epoch, two samples a "
            "batch, and between one checkpoint and one per epoch are needed"
        )
    check_sgd(learning_rate, momentum, weight_decay)
    complete_torch()
    sharpness = Sharpness("sam" if optimizer == "sgd" else optimizer, rho, eta, sigma, decay, gamma, parts)
    if optimizer == "sgd":
        sharpness = replace(sharpness, rho=0.0)
    data = wrap(train, "train")
    device = next(model.parameters()).device
    if len(data) == 0:
        raise InvalidInput("the train set is empty")
    first = data.batch([0])[0]
    with plain_attention(), torch.no_grad(), adapting(model, first):
        outputs = model.eval()(first.to(device))
    if outputs.ndim == 2 and not isinstance(data, SampleSet):
        check_labels(data.labels, outputs.shape[1], data.name, "the model has {} outputs")
    parameters = [p for p in model.parameters() if p.requires_grad]
    base = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    descent = sharpness.around(base, model, seed)
    generator = torch.Generator().manual_seed(seed)
    order = shuffled_ids(len(data), batch_size, generator)
    rest = len(data) % batch_size
    per_epoch = math.ceil(len(data) / batch_size) - (rest == 1 and len(data) > 1)
    keep = {round(epochs * (c + 1) / checkpoints) for c in range(checkpoints)}
    recorded: list[Checkpoint] = []
    losses: list[float] = []
    rate_sum = 0.0
    stream = Stream(seed, device)
    model.train()
    with contained(), adapting(model, first):
        for epoch in track(range(1, epochs + 1), title or f"training with {optimizer.upper()}"):
            total = 0.0
            for i in track(range(per_epoch), "steps"):
                rate = learning_rate * cosine(((epoch - 1) * per_epoch + i) / (epochs * per_epoch))
                for group in base.param_groups:
                    group["lr"] = rate
                rate_sum += rate
                ids = next(order)
                with stream.current():
                    inputs, labels = (part.to(device) for part in data.batch(ids))
                    with _watched(model, watch, ids, labels):
                        total += step(model, descent, loss, augment(inputs) if augment else inputs, labels)
            losses.append(total / per_epoch)
            if not math.isfinite(losses[-1]):
                raise InvalidInput(f"the loss is {losses[-1]} after epoch {epoch}: lower learning_rate={learning_rate}")
            if epoch in keep:
                state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
                recorded.append(Checkpoint(epoch * per_epoch, float(epoch), rate, rate_sum, sharpness.radius, state))
                rate_sum = 0.0
    model.eval()
    radius, options = sharpness.radius, sharpness.options()
    recipe = Recipe(optimizer, learning_rate, momentum, weight_decay, radius, batch_size, epochs, seed, options)
    return Trajectory(recorded, recipe, losses)


@contextmanager
def _watched(model: nn.Module, watch: Watch | None, ids: Tensor, labels: Tensor) -> Iterator[None]:
    """Show ``watch`` the outputs of the first forward pass inside the ``with`` block."""
    if watch is None:
        yield
        return
    first: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, out: None if first else first.append(out.detach().clone()))
    try:
        yield
    finally:
        handle.remove()
    watch(ids, first[0], labels)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer | SharpnessAware, loss: Loss, inputs: Tensor, labels: Tensor
) -> float:
    """One optimiser step on one batch.

    Batch normalisation's running statistics move once, in the first pass.

    Args:
        model: in the mode the step is to see.
        optimizer: over its parameters: one of torch's for a plain step, or a sharpness-aware one. What it remembers
            (momentum, a moving mean) lives in it, so keep it from step to step.
        loss: one loss per sample.
        inputs: [B, ...].
        labels: [B].

    Returns:
        Mean loss of the batch at the weights before the step; under ``LPFSGD`` at the noisy weights around them.
    """
    batch = len(inputs)
    seen: dict[int, float] = {}

    def gradients(frozen: bool, part: int = 0, parts: int = 1) -> None:
        count = max(1, min(parts, batch // 2))  # batch normalisation has no variance of one sample
        if part >= count:
            return
        some = slice(part * batch // count, (part + 1) * batch // count)
        with frozen_statistics(model) if frozen else nullcontext():
            losses = loss(_outputs(model, inputs[some]), labels[some])
        share = losses.mean() if count == 1 else losses.sum() / batch
        share.backward()
        seen.setdefault(part, float(share.detach()))

    with plain_attention():
        if isinstance(optimizer, SharpnessAware):
            optimizer.step(gradients)
        else:
            optimizer.zero_grad()
            gradients(False)
            optimizer.step()
    return sum(seen.values())


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    try:
        outputs: Tensor = model(inputs)
    except ValueError as error:
        if len(inputs) == 1 and "more than 1 value per channel" in str(error):
            raise InvalidInput(
                "a training step on a single image has no variance for batch normalisation: give two or more images, "
                "or tune with batch_statistics=False"
            ) from error
        raise
    return outputs
