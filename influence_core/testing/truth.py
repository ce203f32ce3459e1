"""Checks of meaning, on problems whose answer is known: sign, biases, and planted wrong labels."""

from __future__ import annotations

from collections.abc import Mapping

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
from influence_core.testing.tools import assert_same, changed

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
    """The change of the weights fits the model and changes some; ids have no order, and a weight of 0 removes."""
    study = network_study()
    estimator = subject.make().fit(study)
    whole = estimator.parameter_change([3, 7, 11])
    study.edited(whole)  # refuses names and shapes that do not fit
    assert any(bool(change.any()) for change in whole.values()), "removing images changes no weight"
    other = estimator.parameter_change([11, 3, 7])
    weights = estimator.parameter_change(remove=[11], weight={3: 0.0, 7: 0.0, 5: 1.0})
    for found, why in (
        (other, "the same images were removed in another order"),
        (weights, "two of the images were given the weight 0 instead, and a fourth one its own weight of 1"),
    ):
        assert found.keys() == whole.keys(), f"{why}, and other parameters change"
        assert_same(_double(found), _double(whole), max(subject.tolerance, 1e-6), why)


@check("parameter_change", exemptable=True)
def parameter_change_of_a_group(subject: Subject) -> None:
    """The change for a set of images is the sum of the changes for each."""
    estimator = subject.make().fit(network_study())
    whole = estimator.parameter_change([3, 7, 11])
    parts = [_double(estimator.parameter_change([i])) for i in (3, 7, 11)]
    total = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
    assert_same(
        _double(whole), total, max(subject.tolerance, 1e-6), "three images were removed together instead of one by one"
    )


@check("parameter_change", exemptable=True)
def parameter_change_of_a_mix(subject: Subject) -> None:
    """Removals, new labels and new weights in one call add up, and a weight is a factor of what it weighs."""
    study = network_study()
    estimator = subject.make().fit(study)
    new = {i: (int(study.train.labels[i]) + 1) % study.num_classes for i in (7, 11)}
    whole = estimator.parameter_change(remove=[3], relabel=new, weight={5: 2.5, 11: 0.5})
    gone = {i: _double(estimator.parameter_change([i])) for i in (3, 5, 7, 11)}
    renamed = {i: _double(estimator.parameter_change(relabel={i: label})) for i, label in new.items()}
    total = {n: gone[3][n] - 1.5 * gone[5][n] + renamed[7][n] + (gone[11][n] + renamed[11][n]) / 2 for n in gone[3]}
    why = "an image was removed, two got new labels, and two new weights, all in one call instead of one by one"
    assert_same(_double(whole), total, max(subject.tolerance, 1e-6), why)
    same = [i for i in new if not changed(gone[i], renamed[i])]
    assert not same, f"giving image {same[0]} another label changes the weights as if it were removed"


def _double(change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: delta.double() for name, delta in change.items()}


@check("influence", "parameter_change", exemptable=True)
def parameter_change_is_the_influence(subject: Subject) -> None:
    """Along the change of the weights the test losses change, to first order, by the influence of what is removed."""
    study = convex_study()
    estimator = subject.make().fit(study)
    change = estimator.parameter_change([0, 5])
    gradients = per_sample_gradients(study.model, study.loss, study.test)
    moved = [gradients[name] * delta for name, delta in change.items()]
    slopes = sum(products.reshape(len(products), -1).sum(1).double() for products in moved)
    expected = estimator.influence().group([0, 5]).double()
    why = "the gradients of the test losses were multiplied with the change of the weights"
    assert_same({"influence": torch.as_tensor(slopes)}, {"influence": expected}, max(subject.tolerance, 1e-6), why)


@check("parameter_change")
def parameter_change_against_retraining(subject: Subject) -> None:
    """In a convex model the weights change towards the retrained ones; where scores are in nats, they come nearer.

    Without the wrong labels, and with the right ones in their place. Where only some weights change, they are compared
    with retraining these weights alone.
    """
    study = convex_study()
    wrong, right = study.train.corrupted, study.train.true_labels
    assert wrong is not None
    assert right is not None
    ids, estimator = wrong.nonzero().flatten(), subject.make().fit(study)
    new = dict(zip(ids.tolist(), right[ids].tolist(), strict=True))
    for change, train, what in (
        (estimator.parameter_change(ids), study.train.subset(~wrong), "without the wrong labels"),
        (estimator.parameter_change(relabel=new), study.train.with_labels(right), "with right labels for wrong ones"),
    ):
        edited, before = _flat(study.edited(change).model), _flat(study.model)
        wanted = _flat(minimum(train, study.model, free=edited != before))
        cosine = float(torch.cosine_similarity(edited - before, wanted - before, dim=0))
        assert cosine > 0.5, f"{what} the weights move in another direction: the cosine is {cosine:.2f}"
        if estimator.scales.get("influence") == "nats":
            far, near = float((before - wanted).norm()), float((edited - wanted).norm())
            assert near < far, f"retrained {what}, the weights move by {far:.3g}; {near:.3g} are missed"


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
