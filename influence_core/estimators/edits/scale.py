"""How far to go along an edit of the weights, judged on the validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.models import model_outputs
from influence_core.study import Study

SCALES = tuple(2.0**power for power in range(-4, 9))
"""What is tried: 1/16, 1/8, ..., 256 times the step."""


def validated_scale(
    study: Study,
    change: Mapping[str, Tensor],
    removed: Tensor,
    relabelled: Mapping[int, int] | None = None,
    scales: Sequence[float] = SCALES,
) -> tuple[float, float, float]:
    """The factor of a change of weights with the best ``modified_f1`` on the validation set.

    A removed image is dealt with once its given label is no longer predicted, one with a new label once that is:
    a third label will not do. Validation images count whose class is among the training images afterwards.

    Args:
        study: with a validation set.
        change: parameter name -> what to add, for any estimator's ``parameter_change``.
        removed: ids of the training images that are left out, int64 [n].
        relabelled: id -> new label of those that have another one.
        scales: factors to try, smallest first.

    Returns:
        The factor (the first of equals), its modified F1, and that of the unedited model.

    Raises:
        InvalidInput: if there is no such validation image.
    """
    after = study.train.labels.clone()
    renamed = torch.tensor(list(relabelled or {}), dtype=torch.long)
    after[renamed] = torch.tensor(list((relabelled or {}).values()), dtype=torch.long)
    stays = torch.ones(len(after), dtype=torch.bool)
    stays[removed] = False
    labels = study.split("validation").labels
    ids = torch.isin(labels, after[stays].unique()).nonzero().flatten()
    if not len(ids):
        raise InvalidInput("no validation image has a label that is left among the training images: give a scale")
    concerned = torch.cat([removed, renamed])

    def judged(edited: Study) -> float:
        as_labelled = model_outputs(edited.model, study.train, concerned).argmax(1) == after[concerned]
        undone = torch.cat([as_labelled[: len(removed)], ~as_labelled[len(removed) :]])
        known = model_outputs(edited.model, study.split("validation"), ids).argmax(1) == labels[ids]
        return modified_f1(float(undone.double().mean()), float(known.double().mean()))

    found = [judged(study.edited({name: s * delta for name, delta in change.items()})) for s in scales]
    best = max(found)
    return scales[found.index(best)], best, judged(study)


def modified_f1(self_accuracy: float, accuracy: float) -> float:
    r"""The harmonic mean of what was forgotten and what is still known (Lyu et al. 2023, eq. 14).

    .. math:: F_1 = \frac{2 (1 - a_\text{self}) a}{(1 - a_\text{self}) + a}

    Args:
        self_accuracy: share of the removed images with their given label predicted, and of those with a new label
            without that, 0 to 1.
        accuracy: on images that are to be known still, 0 to 1.

    Returns:
        0 to 1.

    Example:
        >>> modified_f1(0.0, 1.0), modified_f1(1.0, 1.0)
        (1.0, 0.0)
    """
    forgotten = 1 - self_accuracy
    return 2 * forgotten * accuracy / (forgotten + accuracy) if forgotten + accuracy > 0 else 0.0
