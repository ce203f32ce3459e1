"""Inverse curvatures by name, with their options: what an estimator's hyper-parameter can say."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from torch import nn

from influence_core.curvature.inverses.base import InverseCurvature
from influence_core.curvature.inverses.conjugate_gradients import ConjugateGradients
from influence_core.curvature.inverses.dense import DenseInverse
from influence_core.curvature.inverses.diagonal import DiagonalInverse
from influence_core.curvature.inverses.eigenpairs import LeadingEigenpairs
from influence_core.curvature.inverses.kronecker import KroneckerInverse
from influence_core.curvature.inverses.mean_of_inverses import MeanOfInverses
from influence_core.curvature.inverses.neumann_series import NeumannSeries
from influence_core.curvature.inverses.nystrom import NystromInverse
from influence_core.curvature.shared import found_once
from influence_core.errors import InvalidInput
from influence_core.gradients import Data
from influence_core.losses import Loss
from influence_core.parameters import check_value

INVERSES: dict[str, type[InverseCurvature]] = {
    cls.name: cls
    for cls in (
        ConjugateGradients,
        DenseInverse,
        DiagonalInverse,
        KroneckerInverse,
        LeadingEigenpairs,
        MeanOfInverses,
        NeumannSeries,
        NystromInverse,
    )
}
"""Every inverse that a model, a loss and data are enough for, by its name."""


@dataclass(frozen=True)
class InverseSpec:
    """An inverse curvature to be fitted: its name and options.

    Attributes:
        name: of ``INVERSES``: "conjugategradient", "dense", "diagonal", "ekfac", "arnoldi", "datainf", "lissa",
            "nystrom".
        options: arguments of its ``fit``; a ``preconditioner`` is a spec, or a name.

    Raises:
        InvalidInput: if there is no such inverse or option.

    Example:
        >>> InverseSpec("ekfac", {"labels": "exact", "damping": 0.5}).name
        'ekfac'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check names and values, and keep a copy of the options."""
        if not isinstance(self.name, str) or self.name not in INVERSES:
            raise InvalidInput(f"there is no inverse curvature {self.name!r}; choose one of {', '.join(INVERSES)}")
        if not isinstance(self.options, Mapping):
            raise InvalidInput(f"options is {self.options!r}; give a dict, such as {{'damping': 0.5}}")
        object.__setattr__(self, "options", dict(self.options))
        allowed, hints = self._allowed(), get_type_hints(self._maker)
        for option, value in self.options.items():
            if option not in allowed:
                raise InvalidInput(f"the inverse {self.name!r} has no option {option!r}; it has {', '.join(allowed)}")
            if option == "preconditioner":
                check_preconditioner(value)
                continue
            check_value(option, value, hints[option])
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"{option} is {value}; expected a finite number")

    def fit(self, model: nn.Module, loss: Loss, data: Data, **defaults: Any) -> InverseCurvature:
        """Fit it.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            **defaults: options where the spec says nothing; those that this inverse does not have are left out.

        Returns:
            The inverse.
        """
        with found_once():
            return self._fit(model, loss, data, defaults)

    def _fit(self, model: nn.Module, loss: Loss, data: Data, defaults: Mapping[str, Any]) -> InverseCurvature:
        allowed = self._allowed()
        options = {name: value for name, value in defaults.items() if name in allowed} | dict(self.options)
        prior = options.get("preconditioner")
        if prior is not None:
            check_preconditioner(prior)
            prior = spec(prior)
            shared = ["weight_decay", *(["damping"] if INVERSES[prior.name].follows_damping else [])]
            options["preconditioner"] = prior.fit(model, loss, data, **{n: options[n] for n in shared if n in options})
        return self._maker(model, loss, data, **options)

    @property
    def _maker(self) -> Callable[..., InverseCurvature]:
        made: Callable[..., InverseCurvature] = INVERSES[self.name].fit  # type: ignore[attr-defined]  # each has its own
        return made

    def _allowed(self) -> list[str]:
        signature = inspect.signature(self._maker)
        return [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]


def spec(given: str | InverseSpec) -> InverseSpec:
    """A spec, from itself or from a name."""
    return given if isinstance(given, InverseSpec) else InverseSpec(given)


def check_preconditioner(given: Any) -> None:
    """Refuse what cannot precondition conjugate gradients.

    Args:
        given: a name or a spec, or ``None`` for none.

    Raises:
        InvalidInput: if it is neither, or names an inverse that is no fixed positive definite matrix.
    """
    if given is None:
        return
    if not isinstance(given, (str, InverseSpec)):
        raise InvalidInput(f"preconditioner is {given!r}; give a name such as 'ekfac', an InverseSpec, or None")
    chosen = spec(given)
    if not INVERSES[chosen.name].preconditions:
        able = ", ".join(name for name, cls in INVERSES.items() if cls.preconditions)
        raise InvalidInput(
            f"{chosen.name!r} cannot precondition: it is singular, or another matrix at every call; choose one of "
            f"{able}"
        )
