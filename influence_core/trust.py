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
"""Whether a value is a loss, or a change of loss, in nats, a probability, or only its order carries meaning."""

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


def caveats(scale: Scale, coverage: Coverage, meta: Mapping[str, Any]) -> list[str]:
    """What a reader of scores should know before believing them.

    Args:
        scale: of the numbers.
        coverage: of the model.
        meta: facts of the scores. Read are ``residual`` (relative, of the worst solve), ``converged``, and the
            sentences in ``warnings`` (of the method, what to do included) and ``unidentified``.

    Returns:
        Plain sentences without markup, the scale first. Names of classes and files in them are as they were given.
    """
    units = {
        "nats": "The numbers are in nats of loss.",
        "probability": "The numbers are probabilities.",
        "rank only": "Only the order of the numbers means something.",
    }
    found = [units[scale]]
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
