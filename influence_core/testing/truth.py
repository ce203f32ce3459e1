"""Checks of meaning, on problems whose answer is known: sign, biases, and planted wrong labels."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.testing.checks import Subject, check
from influence_core.testing.problems import black_study, convex_study, leave_one_out_effects

_EXTREME = 5
"""How many of the 48 images with the highest and the lowest scores are looked at."""

_CORRELATION = 0.25
"""Gradient products alone reach 0.5 on this problem, with or without a projection; chance reaches 0.1."""


@check("influence")
def sign_against_retraining(subject: Subject) -> None:
    """Leaving out images of high scores raises the test loss, of low scores lowers it, in a convex model."""
    truth = leave_one_out_effects()
    scores = subject.make().fit(convex_study()).influence().values.double()
    order = scores.argsort(dim=0)
    helpful = float(truth.gather(0, order[-_EXTREME:]).mean())
    harmful = float(truth.gather(0, order[:_EXTREME]).mean())
    assert helpful > 0 > harmful, (
        f"retraining without one of the {_EXTREME} images with the highest scores changes the test loss by "
        f"{helpful:+.3g} on average, of the lowest by {harmful:+.3g}; positive has to mean helpful, so that the first "
        "is above 0 and the second below"
    )
    correlation = float(torch.stack([_rank_correlation(s, t) for s, t in zip(scores.T, truth.T, strict=True)]).mean())
    assert correlation > _CORRELATION, (
        f"the rank correlation with leave-one-out retraining is {correlation:.2f} on average over test images, "
        f"expected above {_CORRELATION}"
    )
    large = truth.abs() > truth.abs().quantile(0.9)
    agree = float((scores.sign() == truth.sign())[large].double().mean())
    assert agree > 0.6, f"of the largest tenth of true effects, only {agree:.0%} have the sign of their score"


@check("influence")
def biases_count(subject: Subject) -> None:
    """With black images every gradient lies in the biases: those of the test image's class are still helpful."""
    study = black_study()
    scores = subject.make().fit(study).influence()
    if scores.coverage.parameters < 1:
        return  # it says itself that it leaves parameters out
    same = study.train.labels[:, None] == study.test.labels[None]
    own, other = (float(scores.values[mask].mean()) for mask in (same, ~same))
    assert own > 0 > other, (
        f"on black images the mean influence is {own:.3g} within a class and {other:.3g} between classes; expected "
        f"above and below 0: are the biases left out? The scores claim to cover all parameters"
    )


@check("mislabel_scores")
def planted_wrong_labels(subject: Subject) -> None:
    """Wrong labels have higher mislabel scores than right ones."""
    study = convex_study()
    scores = subject.make().fit(study).mislabel_scores().values.double()
    wrong = study.train.corrupted
    assert wrong is not None
    area = float((scores[wrong][:, None] > scores[~wrong][None]).double().mean())
    assert area > 0.6, f"a wrong label has a higher mislabel score than a right one in {area:.0%} of pairs"


@check("label_influence")
def suggested_labels(subject: Subject) -> None:
    """The label with the largest influence is right more often than the given one."""
    study = convex_study()
    suggested = subject.make().fit(study).label_influence().values.argmax(1)
    truth = study.train.true_labels
    assert truth is not None
    right, given = (float((labels == truth).double().mean()) for labels in (suggested, study.train.labels))
    assert right > given, f"{right:.0%} of the suggested labels are right, of the given ones {given:.0%}"


def _rank_correlation(one: Tensor, two: Tensor) -> Tensor:
    ranks = torch.stack([one, two]).argsort(1).argsort(1).double()
    return torch.corrcoef(ranks)[0, 1]
