"""What a study refuses before anything is computed: parts of the wrong kind, and parts that do not fit together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.inputs import Inputs, concatenated, moved, parts_of
from influence_core.losses import Loss
from influence_core.models import private
from influence_core.training import Recipe, Trajectory

SPLITS = ("train", "validation", "test")
"""The datasets of a study."""


def own_copy(model: nn.Module) -> nn.Module:
    """A copy whose weights are its own too.

    Args:
        model: any module; it is not changed.

    Returns:
        The copy.

    Raises:
        InvalidInput: if a part of it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception:  # weight normalisation of the old kind keeps a product that deepcopy refuses
        pass
    try:
        return copy.deepcopy(private(model))
    except Exception as error:  # whatever a part of the user's own raises
        raise InvalidInput(
            f"the model {type(model).__name__} cannot be copied ({error}): it holds something that copy.deepcopy does "
            "not take, a lock or an open file, say. Make that while a pass needs it, or leave it out with __deepcopy__"
        ) from error


def check_kinds(model: Any, trajectory: Any, loss: Any, weight_decay: Any, name: Any) -> None:
    """Refuse parts of the wrong kind.

    Args:
        model: expected to be a module.
        trajectory: a trajectory, or ``None``.
        loss: a function.
        weight_decay: a number, or ``None``.
        name: a text.

    Raises:
        InvalidInput: naming the part, what was given, and what is expected.
    """
    check_not_traced(model)
    for what, value, right, expected in (
        ("model", model, isinstance(model, nn.Module), "a torch.nn.Module"),
        ("trajectory", trajectory, trajectory is None or isinstance(trajectory, Trajectory), "a Trajectory, or None"),
        ("loss", loss, callable(loss), "a function of outputs and labels, such as ic.losses.cross_entropy"),
        (
            "weight_decay",
            weight_decay,
            weight_decay is None or isinstance(weight_decay, Real),
            "a number, 0 for none, or None for that of the trajectory's recipe",
        ),
        ("name", name, isinstance(name, str), "a text"),
    ):
        if not right:
            raise InvalidInput(f"{what} is {value!r} ({type(value).__name__}), expected {expected}")


def check_not_traced(model: Any) -> None:
    """Refuse what ``torch.jit`` or ``torch.export`` made of a model: gradients by sample need its layers.

    Args:
        model: to look at.

    Raises:
        InvalidInput: saying what to pass instead.
    """
    for kind, way in ((torch.jit.ScriptModule, "traced or scripted"), (torch.export.ExportedProgram, "exported")):
        if isinstance(model, kind):
            raise InvalidInput(
                f"the model is a {kind.__name__}, a recorded program whose layers cannot be told apart: pass the "
                f"torch.nn.Module that was {way}, with the same weights (ic.models.load_weights puts them in)"
            )


class Settled(float):
    """A weight decay that a study has already: it is neither taken from a recipe nor compared with one."""


def settled_decay(weight_decay: float | None, trajectory: Trajectory | None) -> float:
    """The weight decay of a study.

    Args:
        weight_decay: as given; ``None`` for that of the trajectory's recipe, or 0 without one.
        trajectory: of the study.

    Returns:
        lambda of the penalty lambda/2 ||w||^2.
    """
    recipe = None if trajectory is None else trajectory.recipe
    if weight_decay is None:
        return 0.0 if recipe is None else recipe.weight_decay
    known = recipe is not None and recipe != Recipe()
    if recipe is not None and known and not isinstance(weight_decay, Settled) and weight_decay != recipe.weight_decay:
        warnings.warn(
            f"weight_decay={float(weight_decay):g} differs from the {recipe.weight_decay:g} that the recipe of the "
            "trajectory says the model was trained with: leave it out to take the recipe's",
            UserWarning,
            stacklevel=3,  # who makes the study
        )
    return float(weight_decay)


def freeze(model: nn.Module, frozen: Sequence[str], file: Path) -> None:
    """Let all parameters be trained but those named.

    Args:
        model: is changed in place.
        frozen: names of parameters.
        file: that named them, for the message.

    Raises:
        InvalidInput: if there is no such parameter.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted(set(frozen) - parameters.keys())
    if unknown:
        raise InvalidInput(f"{file} says that {unknown[0]!r} is frozen, which is no parameter of the model")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def answer_of_one(model: nn.Module, inputs: Inputs) -> Any:
    """What a model answers for one sample.

    Args:
        model: on its device.
        inputs: [1, ...].

    Returns:
        Whatever it gives.

    Raises:
        InvalidInput: if the model does not take the samples.
    """
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            return model(moved(inputs, device))
    except InvalidInput:
        raise
    except Exception as error:  # whatever the code of others raises: torchvision asserts the size of an image
        one = isinstance(inputs, Tensor)
        what = f"images of shape {tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else f"samples, {inputs!r}"
        hint = "" if one else "; it is called as model(*inputs), or model(**inputs) where they have names"
        raise InvalidInput(
            f"the model {type(model).__name__} does not take the training {what}: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}{hint}"
        ) from error


def count_classes(outputs: Tensor) -> int:
    """Number of outputs K of a classifier.

    Args:
        outputs: for one image.

    Returns:
        K.

    Raises:
        InvalidInput: if they are no row of logits.
    """
    if outputs.ndim != 2:
        raise InvalidInput(
            f"the model gives {tuple(outputs.shape)} for one image, expected logits of shape (1, classes); where "
            "labels are no classes, wrap the datasets in ic.data.SampleSet"
        )
    return int(outputs.shape[1])


def check_loss(model: nn.Module, loss: Loss, inputs: Inputs, labels: Inputs) -> None:
    """Refuse a loss that does not give one number per image.

    Args:
        model: on its device.
        loss: to try.
        inputs: [1, ...].
        labels: [1].

    Raises:
        InvalidInput: with the shape that it gives, or the words in which it fails.
    """
    with torch.no_grad():
        outputs = model(moved(inputs, next(model.parameters()).device)).cpu()
    try:
        losses = loss(torch.cat([outputs, outputs]), concatenated([labels, labels]))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InvalidInput(
            f"the loss does not take outputs of shape {tuple(outputs.shape)} with labels "
            f"{' and '.join(str(tuple(part.shape)) for part in parts_of(labels))}: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    if not isinstance(losses, Tensor) or losses.shape != (2,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise InvalidInput(f"the loss gives {found} for two images, expected one loss per image: use reduction='none'")
