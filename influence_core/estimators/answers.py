"""What a private method of an estimator answers with: numbers, and what is to be known of the call that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """Numbers, and what is to be known of the call that made them.

    Attributes:
        values: as the private method's scores are shaped.
        facts: of this call alone, such as ``residual``, ``iterations``, ``converged`` and ``warnings``.
    """

    values: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Changed:
    """A change of the weights, and what is to be known of the call that made it.

    Attributes:
        change: parameter name -> what to add to it.
        facts: as in ``Answer``.
    """

    change: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


class ParameterChange(dict[str, Tensor]):
    """Parameter name -> what to add to it; ``study.edited(change)`` is the edited study.

    Args:
        change: the tensors.
        meta: estimator, parameters, fingerprint of the study, what changed, residual, seconds, as in ``Scores.meta``.

    Attributes:
        meta: see above.
    """

    def __init__(self, change: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        super().__init__(change)
        self.meta: dict[str, Any] = dict(meta or {})

    def scaled(self, factor: float) -> ParameterChange:
        """The same direction, further or less far; ``ic.estimators.validated_scale`` chooses how far.

        Args:
            factor: to multiply by.

        Returns:
            Another change, whose ``meta`` says the factor, as ``scaled``.
        """
        whole = factor * self.meta.get("scaled", 1.0)
        return ParameterChange({name: factor * delta for name, delta in self.items()}, self.meta | {"scaled": whole})

    def __repr__(self) -> str:
        """What changes how much, without the numbers."""
        weights = sum(delta.numel() for delta in self.values())
        norm = sum(float(delta.double().square().sum()) for delta in self.values()) ** 0.5
        named = self.meta.get("estimator", "weights")
        return f"ParameterChange({named}: {weights:,} weights in {', '.join(self)}; norm {norm:.3g})"
