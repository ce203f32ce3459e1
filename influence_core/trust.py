"""How far numbers can be trusted: what they mean, how much of the model they come from, and what else to know.

``Scores`` carries these facts with its values; a notebook and the app show the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ScoreKind = Literal["influence", "self_influence", "mislabel", "label_influence"]
"""What the numbers mean; ``MEANING`` says it in a sentence."""

Scale = Literal["nats", "probability", "rank only"]
"""Whether a value is a loss, or a change of loss, in nats, a probability, or only its order carries meaning.

A change of loss is one of first order, for a mean loss that keeps its divisor N. Where a model is linear in its weights
and at its minimum it has the size of the real one (``tests.benchmarks.group_effects``); on networks it can be far
off."""

MEANING: dict[str, str] = {
    "influence": "positive: helpful, removing the training image raises the loss of the test image",
    "self_influence": "large: memorised, the model knows the image only because it was trained on it",
    "mislabel": "large: probably mislabelled",
    "label_influence": "the label with the largest value is the suggestion",
}


@dataclass(frozen=True)
class Coverage:
    """How much of the model an estimator really used.

    Attributes:
        parameters: share of the trainable parameters, 0 to 1.
        gradient_norm: share of the squared norm of the training gradients that these parameters carry, 0 to 1.
    """

    parameters: float = 1.0
    gradient_norm: float = 1.0


SIZES = "The numbers are in nats of loss, but their size is right only for models that are linear in their weights."
DIVISOR = "They are for a mean loss that keeps its divisor N."


def caveats(kind: ScoreKind, scale: Scale, coverage: Coverage, meta: Mapping[str, Any]) -> list[str]:
    """What a reader of scores should know before believing them.

    Args:
        kind: what the numbers mean.
        scale: of the numbers.
        coverage: of the model.
        meta: facts of the scores. Read are ``linear`` (whether the model is linear in its weights: only then are
            predicted changes of loss known to have the right size), ``retrained`` (changes that were measured),
            ``evidence`` (a sentence on what the order was measured to be worth), ``residual`` (relative, of the worst
            solve), ``converged``, and the sentences in ``warnings`` (of the method, what to do included) and
            ``unidentified``.

    Returns:
        Plain sentences without markup, the scale first. Names of classes and files in them are as they were given.
    """
    units = {
        "nats": "The numbers are in nats of loss.",
        "probability": "The numbers are probabilities.",
        "rank only": "Only the order of the numbers means something.",
    }
    found = [units[scale]]
    if scale == "nats" and kind in ("influence", "self_influence") and not meta.get("retrained"):
        found = [*(found if meta.get("linear") else [SIZES]), DIVISOR]
    if meta.get("evidence"):
        found.append(str(meta["evidence"]))
    if coverage.parameters < 0.9995:
        found.append(
            f"They come from {coverage.parameters:.1%} of the weights, which carry {coverage.gradient_norm:.0%} of the "
            "gradients' squared norm."
        )
    residual = meta.get("residual")
    if residual is not None:
        found.append(f"Solved to a relative residual of {float(residual):.1g}." if residual else "Solved exactly.")
    said = [str(sentence) for sentence in meta.get("warnings") or ()]
    if not meta.get("converged", True) and not said:
        found.append("The solver stopped before it converged.")
    return [*found, *said, *map(str, meta.get("unidentified") or ())]
