"""Group effects against an additive oracle, scipy, and exact refits of a convex model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators import ConjugateGradient, TracIn
from influence_core.evaluation import draw_groups, group_effects, leave_one_out, retrain_subsets
from influence_core.scores import Scores
from influence_core.testing import problems
from tests.oracle.test_evaluation import TEST, TRAIN, additive, as_scores, effects, oracle

SHARES = (0.1, 0.3)


@pytest.fixture(scope="module")
def study():
    return oracle()


@pytest.fixture(scope="module")
def groups(study):
    return draw_groups(study, SHARES, 8, ("single", "random"), seed=1)


@pytest.fixture(scope="module")
def retrained(study, groups):
    return retrain_subsets(study, additive, groups.kept, seeds=(0, 2))


def test_the_oracle_is_right_in_order_sign_and_size(study, groups, retrained):
    found = group_effects(study, as_scores(study, effects(), scale="nats"), groups, retrained)
    expected = groups.removed.double() @ effects()
    assert torch.allclose(found.predicted, expected, atol=1e-12)
    assert torch.allclose(found.actual, expected, atol=1e-12)
    assert found.table["kind"].tolist() == ["single", "random", "random"]
    assert found.table["size"].tolist() == [1, 3, 9]
    assert found.table["groups"].tolist() == [8] * 3
    for column in ("spearman", "pearson", "slope", "sign", "low", "high"):
        assert np.allclose(found.table[column], 1, atol=1e-9), column
    small = group_effects(study, as_scores(study, -effects() / 67, scale="nats"), groups, retrained).table
    assert np.allclose(small["slope"], -1 / 67)
    assert np.allclose(small["pearson"], -1)
    assert (small["sign"] == 0).all()
    tiny = group_effects(study, as_scores(study, 1e-12 * effects()), groups, retrained)
    assert np.allclose(tiny.table["pearson"], 1)
    assert tiny.table["slope"].isna().all()  # the scale is the order alone
    assert tiny.sentences()[-1] == "Only the order of what oracle predicts means something."


def test_correlations_are_those_of_scipy(study, groups, retrained):
    values = effects() + 2 * effects(1)
    found = group_effects(study, as_scores(study, values, scale="nats"), groups, retrained)
    for row, ids in zip(found.table.to_dict("records"), torch.arange(24).split(8), strict=True):
        p, a = found.predicted[ids].numpy(), found.actual[ids].numpy()
        for name, of in (("spearman", spearmanr), ("pearson", pearsonr)):
            assert row[name] == pytest.approx(np.mean([of(p[:, j], a[:, j]).statistic for j in range(TEST)]))
        assert row["slope"] == pytest.approx(np.linalg.lstsq(a.reshape(-1, 1), p.flatten())[0].item())
        assert row["low"] < row["spearman"] < row["high"]
    chance = group_effects(study, as_scores(study, effects(1), scale="nats"), groups, retrained).table
    assert chance["spearman"].abs().max() < 0.35  # 20 correlations of 8 groups: a standard error of 0.085
    assert ((chance["sign"] > 0.35) & (chance["sign"] < 0.65)).all()


def test_what_groups_hold():
    study = problems.convex_study()
    scores = TracIn().fit(study).influence([3, 5])
    groups = draw_groups(study, (0.1, 0.25), 4, ("single", "random", "class", "top"), scores, seed=2)
    assert groups.removed.sum(1).tolist() == groups.table["size"].tolist()
    assert groups.table["size"].tolist() == [1] * 4 + ([5] * 4 + [12] * 4) * 3
    assert groups.kept[0].all()
    assert torch.equal(groups.kept[1:], ~groups.removed)
    assert len(groups.removed[:4].int().argmax(1).unique()) == 4
    rows = groups.table.index[groups.table["kind"] == "class"]
    for row, label in zip(rows, [0, 1, 2, 0] * 2, strict=True):
        assert set(study.train.labels[groups.removed[row]].tolist()) == {label}
    first, second = (groups.removed[i].nonzero().flatten().tolist() for i in groups.table.index[-4:-2])
    assert first == sorted(scores.helpful(3, 12)["train_id"])
    assert second == sorted(scores.harmful(5, 12)["train_id"])
    assert repr(groups) == "Groups(4 single, 8 random, 8 class, 8 top)"
    again = draw_groups(study, (0.1, 0.25), 4, ("single", "random", "class", "top"), scores, seed=2)
    assert torch.equal(again.removed, groups.removed)


def fixed_divisor(study, kept, seed):
    """The minimum without some images, of a loss whose divisor stays N."""
    return problems.minimum(study.train.subset(kept), penalty=problems.PENALTY * len(study.train) / len(kept))


def mean_of_the_rest(study, kept, seed):
    return problems.minimum(study.train.subset(kept))


def test_a_convex_model_is_refitted_exactly():
    """Single images: order, sign and size are right where the divisor stays N; of groups a little less is predicted."""
    parts = [problems.images(size, seed, noise) for size, seed, noise in ((360, 1, 0.2), (12, 3, 0), (12, 2, 0))]
    study = problems.solved_study(*parts)
    groups = draw_groups(study, (0.05,), 12, seed=3)
    fixed, mean = (retrain_subsets(study, retrain, groups.kept) for retrain in (fixed_divisor, mean_of_the_rest))
    exact = ConjugateGradient(damping=0.0, tolerance=1e-8, curvature="hessian").fit(study)
    found, other = (group_effects(study, exact, groups, one) for one in (fixed, mean))
    single, *rest = found.table.to_dict("records")
    assert single["spearman"] > 0.99
    assert single["sign"] > 0.98
    assert single["slope"] == pytest.approx(1, abs=0.1)
    for row in rest:
        assert row["spearman"] > 0.97
        assert 0.75 < row["slope"] < 1
    assert other.table["sign"][0] < single["sign"] - 0.02  # weight decay counts for more beside fewer images
    tracin = group_effects(study, TracIn(), groups, fixed).table
    assert (tracin["spearman"] < found.table["spearman"] - 0.05).all()
    left_out = groups.removed[:3].int().argmax(1)
    truth = leave_one_out(study, left_out, None, mean_of_the_rest)
    assert torch.allclose(other.actual[:3], truth.values, atol=1e-9)


def test_what_it_says(study, groups, retrained):
    found = group_effects(study, as_scores(study, effects() / 2, scale="nats"), groups, retrained)
    assert found.sentences()[:2] == [
        "Single images: rank correlation 1.00, predicted sizes are 0.5 of the actual ones.",
        "Groups of 3 (random): rank correlation 1.00, predicted sizes are 0.5 of the actual ones.",
    ]
    assert repr(found) == "GroupEffects(oracle: 24 groups, 20 test images, rank correlation 1.00 to 1.00)"
    assert all(sentence in found._repr_html_() for sentence in found.sentences())


def test_refusals(study, groups, retrained):
    scores = as_scores(study, effects())
    with pytest.raises(InvalidInput, match="the retrainings are of other groups"):
        group_effects(study, scores, draw_groups(study, SHARES, 8, ("single", "random"), seed=5), retrained)
    with pytest.raises(StaleResult, match="retrainings belong to another study"):
        group_effects(study.replaced(weight_decay=0.5), scores, groups, retrained)
    with pytest.raises(NotSupported, match="these are mislabel scores"):
        group_effects(study, Scores(torch.ones(TRAIN), torch.arange(TRAIN), "mislabel"), groups, retrained)
    with pytest.raises(NotSupported, match=r"need influence scores: draw_groups\(study, ..., scores=scores\)"):
        draw_groups(study, kinds=("top",), shares=(0.5,))
    with pytest.raises(InvalidInput, match="choose of single, random, class, top"):
        draw_groups(study, kinds=("half",))
    with pytest.raises(InvalidInput, match=r"a share of 0\.01 of 30 images"):
        draw_groups(study, shares=(0.01,))
    with pytest.raises(InvalidInput, match="count is 0"):
        draw_groups(study, SHARES, 0)
