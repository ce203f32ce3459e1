"""The probe: a plan is tried on two samples against plain autograd before it is trusted with a dataset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from influence_core.gradients.fallback import whole_model_gradients
from influence_core.gradients.forms import Form
from influence_core.gradients.plan import Plan
from influence_core.gradients.selection import Selection
from influence_core.gradients.tape import RuleError, Station, Tape, check_losses
from influence_core.gradients.types import GradientError, Loss, MixedSamplesError
from influence_core.gradients.watching import SavedBytes, Shapes, ShapesRecorded, Watched
from influence_core.inputs import Inputs

_TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-3}
_COARSE = 0.1  # half precision, also through autocast


def probe(model: nn.Module, selection: Selection, plan: Plan, loss: Loss, inputs: Inputs, labels: Any) -> float:
    """Compare the planned gradients with one ordinary backward pass per sample, and mend the plan.

    A rule is wrong for a module whose parameter is also used elsewhere, by a function say; no look at the module
    could tell. Numbers can: every parameter whose gradients differ is sent to the whole-model fallback. On the way the
    plan learns where samples stand in each module's tensors, whether channels-last images are possible, and how much
    memory a sample takes.

    Args:
        model: a private model; its parameters are frozen afterwards.
        selection: the chosen parameters.
        plan: the plan, changed in place.
        loss: one loss per sample.
        inputs: two samples ``[2, ...]``, or one where there are no more.
        labels: their labels.

    Returns:
        The chosen parameters' share of the squared gradient norm of all trainable ones, over these samples.

    Raises:
        MixedSamplesError: The loss or the model mixes samples.
        GradientError: The model is not deterministic, or the loss is not one value per sample.
        RuntimeError: The model itself fails on these samples.
    """
    # Unequal weights, so that gradients assigned to the wrong sample do not go unnoticed.
    weights = [1.0, -0.6][: len(inputs)]
    modules = {id(station.module): station.module for station in plan.stations}
    with torch.enable_grad():
        try:
            reference, scales, shapes_of_one, outcomes, share = _one_by_one(
                model, selection, modules, loss, inputs, labels, weights
            )
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            _recorded(model, plan, Watched(loss), inputs, labels, weights, {}, [])  # names a layer whose input it is
            raise GradientError(f"plain autograd cannot differentiate this model: {error}") from error
    tolerance = _tolerance(next(iter(selection.parameters.values())).dtype)
    images = isinstance(inputs, Tensor) and inputs.dim() == 4
    plan.channels_last = images and any(isinstance(module, nn.Conv2d) for module in model.modules())
    shapes_of_all: Shapes = {}
    aside: list[Station] = []
    together = Watched(loss, lambda: _learn_arrangements(plan, shapes_of_one, shapes_of_all, len(weights) > 1))
    with ShapesRecorded(modules, shapes_of_all):
        errors = _recorded(model, plan, together, inputs, labels, weights, reference, aside)
    _check_loss(together, labels)
    _check_unmixed(outcomes, together.outcome, tolerance)
    aside += [station for station in plan.stations if station.alike]
    if aside:
        errors = _spread_stations(model, plan, loss, aside, (inputs, labels, weights), reference, together, tolerance)
    wrong = [name for name in reference if name not in plan.whole_model and _differs(name, errors, scales, tolerance)]
    if wrong:
        plan.drop(wrong, "used in a way that its module's rule does not see")
    if plan.whole_model:
        _try_whole_model(model, plan, loss, inputs, labels, weights, reference, scales, tolerance)
    return share


def _one_by_one(
    model: nn.Module,
    selection: Selection,
    modules: dict[int, nn.Module],
    loss: Loss,
    inputs: Inputs,
    labels: Any,
    weights: list[float],
) -> tuple[dict[str, Tensor], dict[str, float], Shapes, list[tuple[Any, Tensor]], float]:
    """Plain autograd: weighted sums of gradients, sums of their norms, shapes seen, outputs, and the norms' share."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums: dict[str, Tensor] = {}
    scales = dict.fromkeys(selection.parameters, 0.0)
    outcomes: list[tuple[Any, Tensor]] = []
    shapes: Shapes = {}
    squares = {True: 0.0, False: 0.0}
    for index, weight in enumerate(weights):
        with ShapesRecorded(modules, shapes if index == 0 else {}):
            outputs = model(inputs[index : index + 1])
        losses = loss(outputs, labels[index : index + 1])
        check_losses(losses, 1)
        outcomes.append((outputs.detach() if isinstance(outputs, Tensor) else None, losses.detach()))
        if not losses.requires_grad:
            continue
        found = torch.autograd.grad(losses[0], list(trainable.values()), allow_unused=True)
        for name, gradient in zip(trainable, found, strict=True):
            if gradient is None:  # torch's types forget allow_unused
                continue  # type: ignore[unreachable]
            norm = float(torch.linalg.vector_norm(gradient))
            squares[name in scales] += norm**2
            if name in scales:
                sums[name] = sums[name].add_(gradient, alpha=weight) if name in sums else gradient.mul(weight)
                scales[name] += norm
        del found
    for name, parameter in selection.parameters.items():
        sums.setdefault(name, torch.zeros_like(parameter))
    total = squares[True] + squares[False]
    return sums, scales, shapes, outcomes, squares[True] / total if total else 1.0


def _check_loss(together: Watched, labels: Any) -> None:
    """Refuses a loss in which one sample's output moves another's loss."""
    outputs = together.outcome[0]
    if outputs is None or not outputs.is_floating_point() or len(labels) == 1:
        return
    with torch.enable_grad():
        leaf = outputs.requires_grad_()
        losses = together.loss(leaf, labels)
        if losses.requires_grad:
            (slope,) = torch.autograd.grad(losses[0], leaf)
            if len(slope) == len(labels) and bool(slope[1:].any()):
                raise MixedSamplesError(
                    "the loss mixes samples: the first sample's loss changes with the second sample's output; "
                    "compute every sample's loss from its own output only"
                )
    outputs.requires_grad_(False)


def _check_unmixed(outcomes: list[tuple[Any, Tensor]], together: tuple[Any, Tensor], tolerance: float) -> None:
    outputs, losses = together
    if outputs is not None and len(outputs) == len(outcomes):
        alone = torch.cat([output for output, _ in outcomes])
        if not torch.allclose(alone, outputs, rtol=tolerance, atol=tolerance * float(outputs.abs().max())):
            raise MixedSamplesError(
                "the model's output for a sample changes with the other samples of its batch, or from call to call; "
                "gradients of single samples do not exist then: replace batch statistics by running ones, and random "
                "functions (dropout, noise) by their eval behaviour"
            )
    alone = torch.cat([loss for _, loss in outcomes])
    if not torch.allclose(alone, losses, rtol=10 * tolerance, atol=10 * tolerance * float(losses.abs().max())):
        raise MixedSamplesError(
            f"the loss mixes samples: alone they lose {alone.tolist()}, in one batch {losses.tolist()}; "
            "compute every sample's loss from its own output only"
        )


def _learn_arrangements(plan: Plan, ones: Shapes, alls: Shapes, several: bool) -> None:
    """Where samples stand is the axis that grew when one sample became two."""
    for station in plan.stations:
        one, both = ones.get(id(station.module)), alls.get(id(station.module))
        if not one or not both or len(one) != len(both):
            continue
        station.batched = tuple(
            a is not None and b is not None and a[:1] != b[:1] for a, b in zip(one, both, strict=True)
        )
        first_one, first_both = one[0], both[0]
        if several and first_one and one == both and len(one) == 1:
            station.alike = -len(first_one) if len(first_one) > 1 and first_one[0] == 1 else len(first_one)
        if station.features_last and first_one and first_both and len(first_one) == len(first_both):
            grown = [axis for axis, (a, b) in enumerate(zip(first_one, first_both, strict=True)) if a != b]
            if grown == [0]:
                station.arrangement = "first" if first_one[0] == 1 else "folded"
            elif grown == [1] and first_one[1] == 1:
                station.arrangement = "second"


def _spread_stations(
    model: nn.Module,
    plan: Plan,
    loss: Loss,
    stations: list[Station],
    samples: tuple[Inputs, Any, list[float]],
    reference: dict[str, Tensor],
    together: Watched,
    tolerance: float,
) -> dict[str, float]:
    """Take modules whose input all samples share as called for every sample; drop them if the model minds.

    Numbers alone would not show that such a module needs it where the two samples happen to have no gradient.

    Returns:
        As ``_recorded``.
    """
    names = [name for station in stations for name in station.wanted.values()]
    plan.stations = [station for station in plan.stations if not station.alike] + stations
    for station in stations:
        station.spread, station.batched = True, (True,)
    plan.arrange_blocks()
    again, images = Watched(loss), plan.channels_last
    outputs, losses = together.outcome
    try:
        errors = _recorded(model, plan, again, *samples, reference, [])
        same = torch.allclose(again.outcome[1], losses, rtol=tolerance, atol=tolerance * float(losses.abs().max()))
        found = again.outcome[0]
        if same and outputs is not None and found is not None:
            scale = tolerance * float(outputs.abs().max())
            same = found.shape == outputs.shape and torch.allclose(found, outputs, rtol=tolerance, atol=scale)
    except (RuntimeError, ValueError, IndexError):
        same = False
    if same:
        return errors
    for station in stations:
        station.spread, station.alike = False, 0
    plan.channels_last = images
    plan.drop(names, "used on something that all samples share, such as the places of words")
    return _recorded(model, plan, Watched(loss), *samples, reference, [])


def _recorded(
    model: nn.Module,
    plan: Plan,
    loss: Watched,
    inputs: Inputs,
    labels: Any,
    weights: list[float],
    reference: dict[str, Tensor],
    aside: list[Station],
) -> dict[str, float]:
    """How far the planned gradients' weighted sums are from the reference.

    Stations whose rule fails are dropped, or set aside where their inputs are shared, and it is tried again.

    Returns:
        Name -> norm of the difference.

    Raises:
        GradientError: The loss is not one value per sample.
        RuntimeError: The model itself fails.
    """
    while True:
        errors = {name: float(torch.linalg.vector_norm(expected)) for name, expected in reference.items()}
        kept = [0.0]

        def deliver(forms: dict[str, Form], errors: dict[str, float] = errors, kept: list[float] = kept) -> None:
            for name, form in forms.items():
                costs = form.costs()
                kept[0] = max(kept[0], costs.size + costs.kept)
                if name in reference:  # compared at once: nothing as large as the model is kept
                    first, *others = form.rows()
                    total = first * weights[0]
                    for row, weight in zip(others, weights[1:], strict=True):
                        total.add_(row, alpha=weight)
                    difference = form.layout.unflatten(total[None])[0].sub_(reference[name])
                    errors[name] = float(torch.linalg.vector_norm(difference))

        tape = Tape(model, plan.stations, plan.blocks, plan.channels_last)
        try:
            with tape, SavedBytes() as saved:
                tape.run(inputs, labels, loss, deliver)
        except RuleError as error:
            if error.station.alike and not error.station.spread:
                plan.stations = [station for station in plan.stations if station is not error.station]
                aside.append(error.station)
                continue
            plan.drop(error.station.wanted.values(), f"the rule of its module failed: {error.__cause__}")
            continue
        except GradientError:
            raise
        except RuntimeError:
            if not plan.channels_last:
                raise
            plan.channels_last = False  # the model views images in a way that needs channels first
            continue
        itemsize = inputs.element_size() if isinstance(inputs, Tensor) and inputs.is_floating_point() else 4
        plan.bytes_per_sample = 2.0 * saved.total / len(inputs) + 2.0 * kept[0] * itemsize
        return errors


def _differs(name: str, errors: dict[str, float], scales: dict[str, float], tolerance: float) -> bool:
    noise = 1e-6 * max(scales.values(), default=0.0) * tolerance
    return not errors[name] <= tolerance * scales[name] + noise


def _try_whole_model(
    model: nn.Module,
    plan: Plan,
    loss: Loss,
    inputs: Inputs,
    labels: Any,
    weights: list[float],
    reference: dict[str, Tensor],
    scales: dict[str, float],
    tolerance: float,
) -> None:
    """Vectorise the whole-model fallback if that works and is right, else take it one sample at a time."""
    names = sorted(plan.whole_model)
    sums: dict[str, Tensor] = {}
    try:
        for some, forms in whole_model_gradients(model, names, loss, inputs, labels, vectorised=True):
            scale = torch.tensor(weights[some])
            for name, form in forms.items():
                part = (form.rows() * scale.to(form.rows())[:, None]).sum(0).reshape(reference[name].shape)
                sums[name] = sums[name] + part if name in sums else part
        errors = {name: float(torch.linalg.vector_norm(sums[name] - reference[name])) for name in names}
        plan.vectorised = not any(_differs(name, errors, scales, tolerance) for name in names)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
        plan.vectorised = False


def _tolerance(dtype: torch.dtype) -> float:
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return _COARSE
    return _TOLERANCES.get(dtype, _COARSE)
