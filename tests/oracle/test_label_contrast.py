"""LabelContrast and its control against their formulas written out image by image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.estimators import FVM, LabelContrast, TunedLoss
from influence_core.estimators.flat_minima.label_contrast import norm_contrast, studentised_contrast
from tests.helpers import literal_gradients, study
from tests.oracle.test_estimators_literal import softened

SETTINGS = {"steps": 6, "learning_rate": 0.05, "weight_decay": 0.02, "batch_size": 5, "seed": 7, "damping": 0.01}
LOSSES = [nn.CrossEntropyLoss(reduction="none"), softened]


@pytest.fixture(scope="module", params=LOSSES)
def small(request):
    return study().replaced(loss=request.param)


def literal(small, statistic, rho):
    """Contrast of every label of every image, with loops."""
    tuned = FVM(rho=rho, **SETTINGS).fit(small)
    inverse = torch.cat([w.flatten() for w in tuned.inverse_.weights.values()])
    labels = [torch.full((24,), k) for k in range(3)]
    gradients = [literal_gradients(tuned.model_, small.loss, small.train, k) for k in labels]
    with torch.no_grad():
        outputs = tuned.model_(small.train.batch(range(24))[0])
    losses = [small.loss(outputs, k) for k in labels]
    table = torch.zeros(24, 3, dtype=torch.float64)
    for n in range(24):
        for y in range(3):
            found = []
            for k in (k for k in range(3) if k != y):
                if statistic == "norms":
                    q_y, q_k = (float((gradients[j][n] ** 2 * inverse).sum()) for j in (y, k))
                    found.append(math.log(q_y) - math.log(q_k))
                else:
                    apart = gradients[y][n] - gradients[k][n]
                    found.append(float(losses[y][n] - losses[k][n]) / math.sqrt(float((apart**2 * inverse).sum())))
            table[n, y] = max(found)
    return table


@pytest.mark.parametrize("statistic", ["studentised", "norms"])
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_contrast(small, statistic, rho):
    table = literal(small, statistic, rho)
    estimator = LabelContrast(statistic=statistic, rho=rho, **SETTINGS).fit(small)
    assert torch.allclose(estimator.label_influence().values, -table, rtol=1e-7, atol=1e-9)
    given = table.gather(1, small.train.labels[:, None])[:, 0]
    assert torch.allclose(estimator.mislabel_scores().values, given, rtol=1e-7, atol=1e-9)
    assert (given > 0).any()
    assert (given < 0).any()


@pytest.mark.parametrize("prior", ["given", "predicted"])
@pytest.mark.parametrize("top", [0, 1])
def test_a_prior_moves_the_labels_losses(small, prior, top):
    """The contrast with the losses moved, by loops; the frequencies are those of ``PriorMargin``'s own functions."""
    found = LabelContrast(prior=prior, top_labels=top, **SETTINGS).fit(small)
    with torch.no_grad():
        outputs, known = (found.model_(data.batch(range(len(data)))[0]) for data in (small.train, small.validation))
    shares = {
        "given": torch.bincount(small.train.labels, minlength=3).double() + 1 / 3,
        "predicted": outputs.double().softmax(1).sum(0),
    }[prior]
    true = ic.estimators.true_frequencies(outputs, known, small.validation.labels)
    offsets = (shares / shares.sum() / true).log()
    torch.testing.assert_close(found.offsets_, offsets)
    assert offsets.abs().max() > 0.01
    inverse = torch.cat([w.flatten() for w in found.inverse_.weights.values()])
    labels = [torch.full((24,), k) for k in range(3)]
    gradients = [literal_gradients(found.model_, small.loss, small.train, k) for k in labels]
    losses = torch.stack([small.loss(outputs, k) + offsets[k[0]] for k in labels], 1)
    values = -found.label_influence().values
    for n, y in enumerate(small.train.labels.tolist()):
        others = [k for k in range(3) if k != y]
        if top:  # the likeliest other label alone
            others = [min(others, key=lambda k: float(losses[n, k]))]
        apart = [((gradients[y][n] - gradients[k][n]) ** 2 @ inverse).sqrt() for k in others]
        leads = [(losses[n, y] - losses[n, k]) / d for k, d in zip(others, apart, strict=True)]
        assert float(values[n, y]) == pytest.approx(float(max(leads)), rel=1e-7, abs=1e-9)


def test_norms_take_no_prior(small):
    with pytest.raises(InvalidInput, match='give "none"'):
        LabelContrast(statistic="norms", prior="given", **SETTINGS).fit(small)
    with pytest.raises(InvalidInput, match="prior"):
        LabelContrast(prior="mine", **SETTINGS).fit(small)


def test_the_rest_is_fvm(small):
    fvm, contrast = FVM(**SETTINGS).fit(small), LabelContrast(**SETTINGS).fit(small)
    assert torch.equal(fvm.influence().values, contrast.influence().values)
    norms = LabelContrast(statistic="norms", **SETTINGS).fit(small)
    assert torch.equal(norms.label_influence().values.argmax(1), fvm.label_influence().values.argmax(1))


def test_suggestions_are_the_tuned_models_predictions():
    small = study()
    estimator = LabelContrast(**SETTINGS).fit(small)
    with torch.no_grad():
        outputs = estimator.model_(small.train.batch(range(24))[0])
    influence = estimator.label_influence().values
    assert torch.equal(influence.argmax(1), outputs.argmax(1))
    agrees = outputs.argmax(1) == small.train.labels
    assert torch.equal(estimator.mislabel_scores().values < 0, agrees)
    assert agrees.any()
    assert not agrees.all()


def test_half_the_square_is_what_the_label_costs_on_the_validation_set():
    """The smallest move in the metric after which two labels are equally likely, by Lagrange, in the linear model."""
    small = study()
    estimator = LabelContrast(**SETTINGS).fit(small)
    inverse = torch.cat([w.flatten() for w in estimator.inverse_.weights.values()])
    with torch.no_grad():
        z = estimator.model_(small.train.batch(range(24))[0])
    g = [literal_gradients(estimator.model_, small.loss, small.train, torch.full((24,), k)) for k in range(3)]
    for n, y in enumerate(small.train.labels.tolist()):
        lead = [float(z[n, k] - z[n, y]) for k in range(3)]
        k = max(
            (k for k in range(3) if k != y),
            key=lambda k: lead[k] / float(((g[y][n] - g[k][n]) ** 2 * inverse).sum().sqrt()),
        )
        slope = g[y][n] - g[k][n]
        move = -inverse * slope * lead[k] / (slope**2 * inverse).sum()
        assert lead[k] + float(slope @ move) == pytest.approx(0.0, abs=1e-9)
        cost = 0.5 * float((move**2 / inverse).sum())
        assert 0.5 * float(estimator.mislabel_scores().values[n]) ** 2 == pytest.approx(cost, rel=1e-6)


def test_the_scale_of_an_image_cancels():
    torch.manual_seed(0)
    root = torch.randn(4, 3, 5, dtype=torch.float64)
    losses, grams, scale = torch.rand(4, 3, dtype=torch.float64), root @ root.mT, torch.tensor([1e-3, 1.0, 7.0, 1e4])
    times = scale.double()[:, None]
    norms = norm_contrast(losses, grams)
    assert torch.allclose(norm_contrast(losses, grams * times[:, :, None]), norms, rtol=1e-10)
    assert torch.equal(norms.argmin(1), torch.diagonal(grams, dim1=1, dim2=2).argmin(1))
    found = studentised_contrast(losses, grams)  # here it is the scale of the loss
    assert torch.allclose(studentised_contrast(losses * times, grams * times[:, :, None] ** 2), found, rtol=1e-10)
    assert torch.allclose(studentised_contrast(losses + times, grams), found, rtol=1e-6)
    assert torch.equal(found.argmin(1), losses.argmin(1))


def test_labels_without_gradients_give_finite_numbers():
    losses = torch.tensor([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    for contrast in (studentised_contrast, norm_contrast):
        assert torch.isfinite(contrast(losses, torch.zeros(2, 3, 3, dtype=torch.float64)).float()).all()


def test_the_likeliest_labels_alone():
    small = study()
    whole = LabelContrast(**SETTINGS).fit(small).label_influence().values
    part = LabelContrast(top_labels=1, **SETTINGS).fit(small)
    assert torch.equal(part.label_influence().values.argmax(1), whole.argmax(1))
    values = part.label_influence().values
    assert torch.isfinite(values).all()
    rest = values.sort(dim=1).values  # the given label and the likeliest other one are looked at, the third is not
    assert (rest[:, 0] < rest[:, 1]).all()
    wrong = whole.argmax(1) != small.train.labels  # the best label is then among those looked at
    given = small.train.labels[:, None]
    one, two = (x.gather(1, given)[wrong] for x in (part.label_influence().values, whole))
    assert wrong.any()
    assert (one >= two - 1e-9).all()


def test_tuned_loss(small):
    for rho in (0.0, 0.3):
        settings = {k: v for k, v in SETTINGS.items() if k != "damping"}
        control, fvm = TunedLoss(rho=rho, **settings).fit(small), FVM(rho=rho, **SETTINGS).fit(small)
        with torch.no_grad():
            inputs, labels = small.train.batch(range(24))
            expected = small.loss(fvm.model_(inputs), labels)
        assert torch.allclose(control.mislabel_scores().values, expected, rtol=1e-10)
    assert not torch.allclose(expected, small.losses("train"), rtol=1e-2)


def test_refusals():
    with pytest.raises(InvalidInput, match="statistic is 'wald'; choose 'studentised' or 'norms'"):
        LabelContrast(statistic="wald")
    with pytest.raises(InvalidInput, match="top_labels is -1"):
        FVM(top_labels=-1)
    with pytest.raises(InvalidInput, match="sharpness is 'adam'; choose 'sam', 'asam', 'fsam', 'lpf' or Sharpness"):
        FVM(sharpness="adam")
    with pytest.raises(InvalidInput, match="give the radius once"):
        FVM(sharpness=ic.training.Sharpness("asam"), rho=0.1)
    with pytest.raises(InvalidInput, match="LabelContrast has no parameter 'metric' any more: a contrast needs exact"):
        LabelContrast(metric="ekfac")
    with pytest.raises(InvalidInput, match="LPF-SGD has no ascent"):
        FVM(sharpness="lpf", rho=0.3)
    for cls in (FVM, TunedLoss, LabelContrast):
        with pytest.raises(InvalidInput, match="no parameter 'solver' any more: it is called sharpness"):
            cls(solver="asam")
        with pytest.raises(InvalidInput, match=r"'eta' any more: give sharpness=ic.training.Sharpness\(..., eta=...\)"):
            ic.estimators.get(cls.name, eta=0.1)
