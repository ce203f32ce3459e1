"""A model from new weights: initialised again, and trained again by the recipe of the first time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from influence_core.errors import InvalidInput, NotSupported
from influence_core.losses import Loss, cross_entropy
from influence_core.models import adapted_like, architecture_of, build, recognised
from influence_core.training.fit import OPTIMIZERS, Watch, fit
from influence_core.training.randomness import seeded
from influence_core.training.trajectory import Recipe, Trajectory


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """A copy of ``model`` with new weights.

    A model that ``ic.models.build``, torchvision or something registered made is built once more, so that its weights
    come from the architecture's own initialisation. In any other, each module is asked to ``reset_parameters``, those
    inside a module before it. Frozen parameters (``requires_grad`` off) stay: they were given, not learned, and with
    them the running statistics of layers that are frozen as a whole.

    Args:
        model: to copy; it does not change.
        seed: of the weights. They are drawn on the CPU, so that every device gets the same ones.

    Returns:
        The copy, on the device and in the mode of ``model``.

    Raises:
        NotSupported: if a module has parameters of its own, but no ``reset_parameters``; the message names it.
    """
    fresh = copy.deepcopy(model)
    kept = {name: tensor.clone() for name, tensor in _frozen(model).items()}
    with seeded(seed, torch.device("cpu")):
        rebuilt = _rebuilt(model)
        if rebuilt is not None:
            fresh.load_state_dict(rebuilt.state_dict())
        else:
            home = next(model.parameters()).device
            fresh.cpu()
            with torch.no_grad():
                for name, module in reversed(list(fresh.named_modules())):
                    _reset(name, module)
            fresh.to(home)
    fresh.load_state_dict(kept, strict=False)
    fresh.zero_grad(set_to_none=True)
    return fresh


def _rebuilt(model: nn.Module) -> nn.Module | None:
    """The model built once more, if it was built and still has the same weights by name and shape."""
    architecture = architecture_of(model) or recognised(model)  # as a study that was saved and loaded is built
    if architecture is None:
        return None
    found = build(architecture.name, **architecture.arguments)
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (model, found)]
    return found if shapes[0] == shapes[1] else None


def _reset(name: str, module: nn.Module) -> None:
    own = [n for n, p in module.named_parameters(recurse=False) if p.requires_grad]
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)  # attention's name
    if callable(reset):
        cast(Callable[[], Any], reset)()
    elif own:
        raise NotSupported(
            f"{name or 'the model'} is a {type(module).__name__} with the parameter {own[0]!r} but without "
            "reset_parameters(), so it cannot be trained again from new weights: give its class a method "
            "reset_parameters() that draws them, or register the architecture with @ic.models.register and build the "
            "model with ic.models.build"
        )


def _frozen(model: nn.Module) -> dict[str, torch.Tensor]:
    """Frozen parameters, and the buffers of modules that are frozen as a whole."""
    found: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        frozen = {name: p.detach() for name, p in own.items() if not p.requires_grad}
        if own and len(frozen) == len(own):
            frozen |= dict(module.named_buffers(recurse=False))
        found |= {f"{prefix}.{name}".lstrip("."): tensor for name, tensor in frozen.items()}
    return found


def train_fresh(
    model: nn.Module,
    train: Dataset[Any],
    recipe: Recipe,
    *,
    seed: int,
    epochs: int | None = None,
    loss: Loss = cross_entropy,
    watch: Watch | None = None,
    title: str | None = None,
) -> nn.Module:
    """Train a copy of ``model`` from new weights, as ``recipe`` says.

    Augmentation is not part of a recipe: the training goes without.

    Args:
        model: to copy; it does not change.
        train: map-style dataset of ``(input tensor, label)``.
        recipe: optimiser, learning rate, batch size and so on; its seed is not used.
        seed: of the weights and of the order of the batches.
        epochs: instead of the recipe's; the learning rate falls to 0 over these.
        loss: one loss per sample.
        watch: see ``fit``.
        title: of the progress shown.

    Returns:
        The trained copy, in eval mode.
    """
    found, _ = fit_fresh(model, train, recipe, seed=seed, epochs=epochs, loss=loss, watch=watch, title=title)
    return found


def fit_fresh(
    model: nn.Module,
    train: Dataset[Any],
    recipe: Recipe,
    *,
    seed: int,
    epochs: int | None = None,
    loss: Loss = cross_entropy,
    watch: Watch | None = None,
    title: str | None = None,
    checkpoints: int = 1,
) -> tuple[nn.Module, Trajectory]:
    """As ``train_fresh``, with the checkpoints.

    Args:
        model: to copy; it does not change.
        train: map-style dataset of ``(input tensor, label)``.
        recipe: optimiser, learning rate, batch size and so on; its seed is not used.
        seed: of the weights and of the order of the batches.
        epochs: instead of the recipe's.
        loss: one loss per sample.
        watch: see ``fit``.
        title: of the progress shown.
        checkpoints: how many to keep.

    Returns:
        The trained copy, in eval mode, and its trajectory.

    Raises:
        InvalidInput: if ``fit`` has no such optimiser.
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise InvalidInput(
            f"the study was trained with {recipe.optimizer!r}; ic.training.fit can train again with "
            f"{', '.join(OPTIMIZERS)}. Without its trajectory, study.replaced(trajectory=None), the study is trained "
            "with the defaults of fit"
        )
    fresh = adapted_like(reinitialised(model, seed), model)
    settings = asdict(recipe) | {"seed": seed, "epochs": recipe.epochs if epochs is None else epochs}
    options = settings.pop("options")
    done = fit(fresh, train, checkpoints=checkpoints, loss=loss, watch=watch, title=title, **settings, **options)
    return fresh, done
