"""Coverage: which share of a model's parameters and gradients was used, and by which way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coverage:
    """What was used of a model.

    Attributes:
        trainable: Entries of all trainable parameters.
        selected: Entries of the chosen ones.
        by_rule: Share of the chosen entries whose gradients came from layer rules.
        by_fallback: Share that came from ``torch.func``; the two add up to 1.
        norm_by_rule: Share of the sum over all samples of the squared norms of the chosen parameters' gradients, by
            rules; None where no data was swept.
        norm_by_fallback: The same by the fallback.
        norm_selected: The chosen parameters' share of the squared gradient norm of all trainable ones, measured on the
            first and the middle sample only; None where no data was swept.
        rules: Names of the parameters served by rules.
        fallback: Name -> reason, of the parameters served by the fallback.
    """

    trainable: int
    selected: int
    by_rule: float
    by_fallback: float
    norm_by_rule: float | None
    norm_by_fallback: float | None
    norm_selected: float | None
    rules: tuple[str, ...]
    fallback: dict[str, str]

    @property
    def share(self) -> float:
        """Share of the trainable entries that was chosen."""
        return self.selected / self.trainable if self.trainable else 0.0
