"""Calibration by planted flips against closed forms, scikit-learn and Bayes' rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import influence_core as ic
from influence_core.estimators import CalibratedDetector
from influence_core.estimators.detectors import planted_flips
from tests.helpers import study


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_wrong_labels_are_drawn_as_the_training_set_has_them() -> None:
    likely, given = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 2, 1, 0, 2])
    wrong = planted_flips.transitions(likely, given, 3)
    expected = torch.tensor([[0, 3 / 5, 2 / 5], [2 / 3, 0, 1 / 3], [1 / 2, 1 / 2, 0]], dtype=torch.float64)
    assert torch.allclose(wrong, expected)
    labels = torch.randint(0, 3, (30_000,), generator=seeded(1))
    flipped, planted = planted_flips.plant(labels, 0.3, wrong, seeded(2))
    assert int(planted.sum()) == 9_000
    assert torch.equal(flipped != labels, planted)
    drawn = torch.bincount(labels[planted] * 3 + flipped[planted], minlength=9).double().reshape(3, 3)
    assert (drawn / drawn.sum(1, keepdim=True) - expected).abs().max() < 0.03, "four standard deviations at the most"


def test_at_least_one_image_is_flipped_and_one_is_not() -> None:
    wrong = planted_flips.transitions(torch.tensor([0]), torch.tensor([0]), 2)
    for share, count in ((0.01, 1), (0.99, 3)):
        assert int(planted_flips.plant(torch.tensor([0, 1, 0, 1]), share, wrong, seeded())[1].sum()) == count


def test_ranks_of_equal_values_are_shared() -> None:
    among = torch.randint(0, 9, (50,), generator=seeded()).float()
    shares = torch.from_numpy(rankdata(among.numpy())) / 51
    assert torch.allclose(planted_flips.logit_ranks(among, among), torch.logit(shares), rtol=0, atol=1e-12)
    ends = planted_flips.logit_ranks(torch.tensor([-1.0, 99.0]), among)
    assert torch.allclose(ends.sigmoid(), torch.tensor([0.5 / 51, 50.5 / 51], dtype=torch.float64))


def test_logistic_regression_is_that_of_scikit_learn_with_platts_targets() -> None:
    features = torch.randn(80, 2, dtype=torch.float64, generator=seeded())
    positive = features @ torch.tensor([1.5, 0.7], dtype=torch.float64) + torch.randn(80, generator=seeded(1)) > 0.4
    n, y = len(features), positive.numpy()
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
    peer = LogisticRegression(C=1 / 0.3, tol=1e-10, max_iter=2000).fit(
        np.concatenate([features.numpy()] * 2), [1] * n + [0] * n, sample_weight=np.concatenate([target, 1 - target])
    )
    found = planted_flips.logistic(features, positive, penalty=0.3)
    expected = torch.tensor([*peer.intercept_, *peer.coef_[0]], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    turned = planted_flips.logistic(features * torch.tensor([1.0, -1.0]), positive)
    assert turned[2] == 0, "a weight is not negative"
    assert turned[1] > 0


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_the_share_of_wrong_labels_is_found_and_probabilities_follow_bayes(share: float) -> None:
    """Two normal distributions, whose odds are known; 40,000 draws."""
    wrong = torch.rand(40_000, generator=seeded(3)) < share
    values = torch.randn(40_000, dtype=torch.float64, generator=seeded(4)) + 2 * wrong
    odds = (2 * values - 2) + np.log(0.3 / 0.7)  # under a share of 0.3
    found = planted_flips.prevalence(odds, 0.3)
    assert abs(found - share) < 0.015
    likelihoods = torch.exp(-((values - 2) ** 2) / 2), torch.exp(-(values**2) / 2)
    bayes = share * likelihoods[0] / (share * likelihoods[0] + (1 - share) * likelihoods[1])
    assert torch.allclose(planted_flips.shifted(odds, 0.3, share), bayes, rtol=1e-9, atol=1e-12)


def test_probabilities_are_in_the_order_of_one_detector_and_add_up() -> None:
    small = study()
    fitted = CalibratedDetector(detectors="loss").fit(small)
    p, labels = fitted.label_influence().values, small.train.labels
    assert torch.allclose(p.sum(1), torch.ones(24, dtype=p.dtype), atol=1e-9)
    assert bool(((p >= 0) & (p <= 1)).all())
    scores = fitted.mislabel_scores()
    assert scores.scale == "probability"
    assert torch.allclose(scores.values, 1 - p[torch.arange(24), labels], atol=1e-9)
    losses = ic.estimators.Loss().fit(small).mislabel_scores().values
    assert torch.equal(scores.values.sort().values, scores.values[losses.sort().indices])
    assert float(scores.values.mean()) == pytest.approx(fitted.prevalence_, abs=1e-5)
    assert any("planted flips only" in sentence for sentence in scores.caveats()), "of 4 planted flips"


def test_planted_flips_are_learnt_from_a_model_that_was_taught_them(monkeypatch: pytest.MonkeyPatch) -> None:
    small = study()
    seen: list[ic.Study] = []
    asked = CalibratedDetector._seen

    def watched(self: CalibratedDetector, one: ic.Study) -> dict[str, Tensor]:
        seen.append(one)
        return asked(self, one)

    monkeypatch.setattr(CalibratedDetector, "_seen", watched)
    fitted = CalibratedDetector(detectors="loss,deepknn", share=0.5, seed=3).fit(small)
    own, *folds = seen
    assert own is small
    clean = small.split("validation")
    wrong = 0
    held: list[float] = []
    for fold in folds:
        assert torch.equal(fold.train.labels[:24], small.train.labels)
        assert len(fold.train) == 24 + 6
        assert len(fold.split("validation")) == 6
        apart = {float(x.sum()) for x in clean.batch(range(12))[0]}
        inside = [float(x.sum()) for x in fold.train.batch(range(24, 30))[0]]
        assert set(inside) <= apart
        assert not set(inside) & {float(x.sum()) for x in fold.split("validation").batch(range(6))[0]}
        assert fold.model is not small.model
        assert fold.trajectory is not None
        truth = fold.train.true_labels
        if truth is not None:
            wrong += int((fold.train.labels != truth)[24:].sum())
        held += inside
    assert len(set(held)) == 12, "each clean image once"
    assert fitted.planted_ == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detectors": "loss,loss"}, "each of them once"),
        ({"detectors": "calibrated"}, "gives no scores"),
        ({"detectors": "fif"}, "gives no scores"),
        ({"detectors": "no such"}, "there is no estimator"),
        ({"folds": 1}, "at least 2"),
        ({"share": 1.0}, "keep theirs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ic.InfluenceError, match=words):
        ic.estimators.get("calibrated", **settings)


def test_too_few_clean_images_are_refused() -> None:
    small = study()
    few = small.replaced(validation=small.split("validation").subset(range(5)))
    detector = CalibratedDetector(detectors="loss")
    assert detector.missing(few) == ["8 clean images"]
    with pytest.raises(ic.NotSupported, match="has 5"):
        detector.fit(few)
