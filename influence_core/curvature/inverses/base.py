r"""An inverse curvature: what turns a gradient into a change of the weights.

Influence functions, influence at a validation minimum, influence on SAM-trained models and the Laplace approximation
all need :math:`(H + (\lambda + \delta) I)^{-1}` of some model, loss and data, and differ in how it is had. Each way is
a class here, one a file, with the same face: ``fit`` computes what does not depend on a vector, ``apply`` multiplies,
and what a call found (a residual, whether it converged) comes back with the vectors. Objects never change once they
are made, so that any number of threads may ask one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from influence_core.curvature.vectors import Vectors
from influence_core.errors import InvalidInput, NotSupported
from influence_core.gradients import Data, Labelled, Metric, squared_norms
from influence_core.losses import Loss
from influence_core.pieces import piece
from influence_core.progress import track


@dataclass(frozen=True)
class Solved:
    """Vectors multiplied by an inverse curvature, and what is to be known of them.

    Attributes:
        vectors: parameter name -> ``[R, *shape]``.
        facts: of this call: ``residual``, ``iterations``, ``converged``, ``warnings``; empty where nothing was solved.
    """

    vectors: Vectors
    facts: Mapping[str, Any] = field(default_factory=dict)


class InverseCurvature(ABC):
    r""":math:`(H + (\lambda + \delta) I)^{-1}` of a model, a loss and data.

    Attributes:
        name: as in ``InverseSpec``.
        has_metric: whether ``metric`` gives the norms of all samples in one sweep.
        has_root: whether ``root`` gives the symmetric square root.
        preconditions: whether it is one positive definite matrix, whatever it is multiplied with, so that it can
            precondition an iterative solve.
        follows_damping: whether it takes the solve's damping where it preconditions one, unless it has its own.
    """

    name: ClassVar[str]
    has_metric: ClassVar[bool] = False
    has_root: ClassVar[bool] = False
    preconditions: ClassVar[bool] = False
    follows_damping: ClassVar[bool] = False

    @abstractmethod
    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """The inverse times R stacked vectors.

        Args:
            vectors: parameter name -> ``[R, *shape]``.

        Returns:
            As many vectors, and the facts of this call.
        """

    def facts(self) -> dict[str, Any]:
        """What the fit settled: the damping that was added, and the weight decay."""
        return {}

    def metric(self) -> Metric:
        """For ``squared_norms(model, loss, data, metric)``: ``g' H^-1 g`` of every sample.

        Returns:
            The metric.

        Raises:
            NotSupported: if this inverse has none that is cheap; ``Probes`` estimates the norms of any inverse.
        """
        raise NotSupported(f"{type(self).__name__} has no metric: see curvature.inverses.Probes")

    def root(self) -> InverseCurvature:
        """The symmetric square root: applied to standard normal vectors it gives draws with this covariance.

        Returns:
            An object whose ``apply`` multiplies by the root.

        Raises:
            NotSupported: if this inverse has none that is cheap.
        """
        raise NotSupported(f"{type(self).__name__} has no square root that is cheap")

    def squared_norms(self, model: nn.Module, loss: Loss, data: Data) -> Tensor:
        """``g' H^-1 g`` of every sample.

        Args:
            model: where gradients are taken, in eval mode.
            loss: one loss per sample.
            data: N samples.

        Returns:
            [N].
        """
        return squared_norms(model, loss, data, self.metric())

    def label_norms(self, model: nn.Module, loss: Loss, data: Labelled, labels: int, top: int | None = None) -> Tensor:
        """The same with each label in the place of the given one, by a sweep for each label.

        Args:
            model: where gradients are taken, in eval mode.
            loss: one loss per sample.
            data: N samples.
            labels: K.
            top: how many labels to look at, where a way is known to save the others; ignored otherwise.

        Returns:
            float64 [N, K].
        """
        metric = self.metric()
        given = torch.arange(labels)

        def norms(label: Tensor) -> Vectors:
            return {"norms": squared_norms(model, loss, data, metric, labels=label.expand(len(data)))}

        numbered = enumerate(track(list(given), "norms with each label"))
        columns = [piece(f"label-{number}", partial(norms, label))["norms"] for number, label in numbered]
        return torch.stack(columns, dim=1).double()


def worst(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is to be said of several calls together: the largest residual, whether all converged, every warning once.

    Args:
        facts: of each call.

    Returns:
        The facts of all.
    """
    found: dict[str, Any] = {}
    for one in facts:
        for key, value in one.items():
            if key not in found:
                found[key] = value
            elif key == "converged":
                found[key] = found[key] and value
            elif key == "warnings":
                found[key] = list(dict.fromkeys([*found[key], *value]))
            elif key in ("residual", "iterations"):
                found[key] = max(found[key], value)
    return found


def check_damping(damping: float, weight_decay: float = 0.0) -> None:
    """Refuse a relative damping or a weight decay that is no finite number of 0 or more.

    Args:
        damping: a multiple of the mean curvature.
        weight_decay: lambda.

    Raises:
        InvalidInput: if one is negative, infinite or NaN.
    """
    if not 0 <= damping < math.inf:
        raise InvalidInput(f"damping is {damping}; it is a multiple of the mean curvature, so 0 or more")
    if not 0 <= weight_decay < math.inf:
        raise InvalidInput(f"weight_decay is {weight_decay}; it is the factor of a penalty, so 0 or more")


def check_solve(damping: float, tolerance: float) -> None:
    """Refuse settings that an iterative solve cannot take.

    Args:
        damping: a multiple of the mean curvature.
        tolerance: on the relative residual.

    Raises:
        InvalidInput: if one is out of range.
    """
    check_damping(damping)
    if not 0 <= tolerance < 1:
        raise InvalidInput(f"tolerance is {tolerance}; it is a relative residual, so from 0 to below 1")


def check_count(name: str, value: int) -> None:
    """Refuse a number of steps below 1.

    Args:
        name: of the parameter.
        value: to check.

    Raises:
        InvalidInput: if it is below 1.
    """
    if value < 1:
        raise InvalidInput(f"{name} is {value}; at least 1 is needed")
