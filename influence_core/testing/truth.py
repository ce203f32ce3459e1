"""Checks of meaning, on problems whose answer is known: sign, biases, and planted wrong labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.gradients import per_sample_gradients
from influence_core.testing.checks import Subject, check
from influence_core.testing.problems import (
    black_study,
    convex_study,
    leave_one_out_effects,
    minimum,
    network_study,
)
from influence_core.testing.tools import assert_same

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


@check("parameter_change")
def parameter_change_fits_the_model(subject: Subject) -> None:
    """The change of the weights fits the model, changes some of them, and does not depend on the order of the ids."""
    study = network_study()
    estimator = subject.make().fit(study)
    whole = estimator.parameter_change([3, 7, 11])
    study.edited(whole)  # refuses names and shapes that do not fit
    assert any(bool(change.any()) for change in whole.values()), "removing images changes no weight"
    found = {name: change.double() for name, change in estimator.parameter_change([11, 3, 7]).items()}
    expected = {name: change.double() for name, change in whole.items()}
    assert found.keys() == expected.keys(), "the same images in another order change other parameters"
    assert_same(found, expected, max(subject.tolerance, 1e-6), "the same images were removed in another order")


@check("parameter_change", exemptable=True)
def parameter_change_of_a_group(subject: Subject) -> None:
    """The change for a set of images is the sum of the changes for each."""
    estimator = subject.make().fit(network_study())
    whole = estimator.parameter_change([3, 7, 11])
    parts = [estimator.parameter_change([i]) for i in (3, 7, 11)]
    total = {name: torch.stack([part[name].double() for part in parts]).sum(0) for name in parts[0]}
    found = {name: change.double() for name, change in whole.items()}
    assert_same(found, total, max(subject.tolerance, 1e-6), "three images were removed together instead of one by one")


@check("influence", "parameter_change", exemptable=True)
def parameter_change_is_the_influence(subject: Subject) -> None:
    """Along the change of the weights the test losses change, to first order, by the influence of what is removed."""
    study = convex_study()
    estimator = subject.make().fit(study)
    change = estimator.parameter_change([0, 5])
    gradients = per_sample_gradients(study.model, study.loss, study.test)
    slopes = sum((gradients[name] * delta).flatten(1).sum(1).double() for name, delta in change.items())
    expected = estimator.influence().group([0, 5]).double()
    why = "the gradients of the test losses were multiplied with the change of the weights"
    assert_same({"influence": torch.as_tensor(slopes)}, {"influence": expected}, max(subject.tolerance, 1e-6), why)


@check("parameter_change")
def parameter_change_against_retraining(subject: Subject) -> None:
    """In a convex model the weights change towards the retrained ones; where scores are in nats, they come nearer.

    Where only some weights change, they are compared with retraining these weights alone.
    """
    study = convex_study()
    removed = study.train.corrupted
    assert removed is not None
    estimator = subject.make().fit(study)
    edited_study = study.edited(estimator.parameter_change(removed.nonzero().flatten()))
    edited, before = _flat(edited_study.model), _flat(study.model)
    wanted = _flat(minimum(study.train.subset(~removed), study.model, free=edited != before))
    cosine = float(torch.cosine_similarity(edited - before, wanted - before, dim=0))
    assert cosine > 0.5, f"without the wrong labels the weights move in another direction: the cosine is {cosine:.2f}"
    if estimator.scales.get("influence") == "nats":
        far, near = float((before - wanted).norm()), float((edited - wanted).norm())
        assert near < far, f"retrained without the wrong labels, the weights move by {far:.3g}; {near:.3g} are missed"


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@check("mislabel_scores", exemptable=True)
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
