"""Coverage: which share of a model's parameters and gradients was used, and by which way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleCoverage:
    """What was used of a model.

    Attributes:
        trainable: entries of all trainable parameters.
        selected: entries of the chosen ones.
        by_rule: share of the chosen entries whose gradients came from layer rules.
        by_fallback: share that came from ``torch.func``; the two add up to 1.
        norm_selected: the chosen parameters' share of the squared gradient norm of all trainable ones, measured on the
            first and the middle sample only; None where no data was swept.
        rules: names of the parameters served by rules.
        fallback: name -> reason, of the parameters served by the fallback.
    """

    trainable: int
    selected: int
    by_rule: float
    by_fallback: float
    norm_selected: float | None
    rules: tuple[str, ...]
    fallback: dict[str, str]

    @property
    def share(self) -> float:
        """Share of the trainable entries that was chosen."""
        return self.selected / self.trainable if self.trainable else 0.0
