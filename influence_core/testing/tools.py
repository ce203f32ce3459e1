"""What the checks share: results side by side, other batch sizes, and what a study looked like before."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InfluenceError
from influence_core.estimators import Estimator
from influence_core.scores import Scores
from influence_core.study import SPLITS, Study

SCORES = ("influence", "self_influence", "mislabel_scores", "label_influence")
"""The public methods that return scores and need no argument."""


def results(estimator: Estimator) -> dict[str, Scores]:
    """All scores that a fitted estimator gives.

    Args:
        estimator: fitted.

    Returns:
        Public method -> scores.
    """
    return {method: getattr(estimator, method)() for method in estimator.gives() if method in SCORES}


def values(estimator: Estimator) -> dict[str, Tensor]:
    """The numbers of ``results``, in float64."""
    return {method: scores.values.double() for method, scores in results(estimator).items()}


def outcomes(estimator: Estimator) -> dict[str, Tensor]:
    """The numbers of ``values`` and, where it is given, the change of the weights when two images are removed.

    Args:
        estimator: fitted.

    Returns:
        Public method -> numbers; those of ``parameter_change`` parameter by parameter, its names joined by a colon.
    """
    found = values(estimator)
    if "parameter_change" in estimator.gives():
        change = estimator.parameter_change([0, 5])
        found |= {f"parameter_change:{name}": delta.double() for name, delta in change.items()}
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, why: str) -> None:
    """Compare the numbers of two runs.

    Args:
        found: public method -> numbers.
        expected: likewise.
        tolerance: allowed deviation as a share of the largest expected value.
        why: what should not have made a difference.
    """
    for method, wanted in expected.items():
        got = found[method]
        assert got.shape == wanted.shape, f"{method}: {why}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
        scale = float(wanted.abs().max())
        error = float((got - wanted).abs().max())
        assert error <= tolerance * scale, (
            f"{method}: {why}, but the scores change by {error:.3g} where the largest is {scale:.3g} "
            f"(allowed: {tolerance:g} of it)"
        )


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread of its own, all begun at the same moment.

    Args:
        works: to run.

    Returns:
        What each returned.

    Raises:
        AssertionError: if one raises; with its traceback.
    """
    found: list[Any] = [None] * len(works)
    raised: list[str] = []
    start = threading.Barrier(len(works))

    def run(place: int) -> None:
        start.wait()
        try:
            found[place] = works[place]()
        except BaseException:
            raised.append(traceback.format_exc(limit=-4))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise AssertionError(f"{len(raised)} of {len(works)} threads raised; the first:\n{raised[0]}")
    return found


def equal(one: Any, two: Any) -> bool:
    """Whether two values are the same deeply: tensors bit by bit, models by weights, objects by what they keep.

    What an object leaves out when it is copied, such as a lock, is not looked at.

    Args:
        one: any value.
        two: likewise.

    Returns:
        Whether they are the same.
    """
    if isinstance(one, nn.Module) and isinstance(two, nn.Module):
        return equal(dict(one.state_dict()), dict(two.state_dict()))
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.shape == two.shape and one.dtype == two.dtype and bool(torch.equal(one, two))
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(equal(a, b) for a, b in zip(one, two, strict=True))
    if hasattr(one, "__dict__") and not callable(one):
        return equal(one.__getstate__(), two.__getstate__())
    return one is two or bool(one == two)


def refused(work: Callable[[], Any], error: type[InfluenceError], what: str) -> str:
    """Run what has to be refused.

    Args:
        work: to run.
        error: the expected type.
        what: is being tried, for the message.

    Returns:
        The message of the refusal.

    Raises:
        AssertionError: if it is not refused, or not with this type.
    """
    try:
        work()
    except error as caught:
        return str(caught)
    except Exception as other:
        raise AssertionError(f"{what}: expected {error.__name__}, got {type(other).__name__}: {other}") from other
    raise AssertionError(f"{what}: expected {error.__name__}, but nothing was raised")


def snapshot(study: Study) -> dict[str, Any]:
    """Everything of a study that no estimator may change, as copies.

    Args:
        study: to look at.

    Returns:
        What each thing is -> its value; compare with ``changed``.
    """
    seen: dict[str, Any] = {}
    for name, tensor in study.model.state_dict().items():
        seen[f"{name} of the model"] = tensor.clone()
    for name, parameter in study.model.named_parameters():
        seen[f"requires_grad of {name}"] = parameter.requires_grad
        seen[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, module in study.model.named_modules():
        seen |= {f"{what} of {name or 'the model'}": value for what, value in _state_of(module).items()}
    for index, checkpoint in enumerate(study.trajectory or ()):
        for name, tensor in checkpoint.state.items():
            seen[f"{name} of checkpoint {index}"] = tensor.clone()
    for split in SPLITS:
        data: LabelledDataset | None = getattr(study, split)
        if data is not None:
            seen[f"the {split} images"], seen[f"the {split} labels"] = (t.clone() for t in data.batch(range(len(data))))
    seen["the default type"] = torch.get_default_dtype()
    seen["whether gradients are enabled"] = torch.is_grad_enabled()
    seen["the state of torch's random numbers"] = torch.get_rng_state()
    return seen


def _state_of(module: nn.Module) -> dict[str, Any]:
    hooks = {name.strip("_"): len(table) for name, table in vars(module).items() if name.endswith("_hooks")}
    own = sorted(name for name, value in vars(module).items() if callable(value) and not isinstance(value, nn.Module))
    return {"training mode": module.training, "replaced functions": own} | hooks


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs between two snapshots."""

    def same(one: Any, two: Any) -> bool:
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            return torch.equal(one, two)
        return type(one) is type(two) and bool(one == two)

    return [name for name in before | after if name not in before or not same(before[name], after.get(name))]
