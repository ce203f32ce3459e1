"""Comparisons whose answer is known: a convex model at its minimum, and trainings whose losses are set at will."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.applications import detect
from influence_core.data import LabelledDataset
from influence_core.errors import StaleResult
from influence_core.estimators import ConjugateGradient, Random
from influence_core.evaluation import agreement, compare, draw_subsets, lds, leave_one_out, retrain_subsets
from influence_core.evaluation.rank_correlation import shared_top, spearman
from influence_core.scores import Scores
from influence_core.testing import problems

NAMES = ("conjugategradient", "tracin", "lastlayer", "loss")
TESTS = (0, 3, 4, 7, 9)
TRAIN, TEST = 40, 6


def convex_retrain(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    return problems.minimum(study.train.subset(kept))


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return problems.convex_study()


@pytest.fixture(scope="module")
def truth(study: ic.Study) -> Scores:
    facts = {"estimator": "leave_one_out", "study": study.fingerprint}
    ids = torch.arange(48), torch.arange(12)
    return Scores(problems.leave_one_out_effects(), ids[0], "influence", test_ids=ids[1], meta=facts)


@pytest.fixture(scope="module")
def report(study: ic.Study, truth: Scores) -> ic.evaluation.Comparison:
    retrained = retrain_subsets(study, convex_retrain, draw_subsets(48, 30, 0.8))
    return compare(study, NAMES, test=TESTS, retrained=retrained, leave_one_out=truth, k=5)


def row(report: ic.evaluation.Comparison, name: str) -> dict[str, float]:
    return report.table[report.table["estimator"] == name].iloc[0].to_dict()


def test_a_solved_convex_model_tells_who_is_right(report: ic.evaluation.Comparison) -> None:
    best, other = row(report, "conjugategradient"), row(report, "tracin")
    assert best["leave_one_out_percent"] > 95
    assert best["leave_one_out_percent"] > other["leave_one_out_high_percent"]
    assert best["lds_percent"] > other["lds_high_percent"]
    said = " ".join(report.sentences())
    assert "conjugategradient has the best LDS" in said
    assert "conjugategradient has the best correlation with leave-one-out" in said
    assert "Not measured: leaving out the top and training again (removal=0.01)." in said


@pytest.mark.parametrize("name", NAMES[:3])
def test_figures_are_those_of_direct_calls(
    report: ic.evaluation.Comparison, study: ic.Study, truth: Scores, name: str
) -> None:
    found = row(report, name)
    fitted = ic.estimators.get(name).fit(study)
    scores = fitted.influence(TESTS)
    retrained = report.retrained
    assert retrained is not None
    judge = dataclasses.replace(retrained, losses=retrained.losses[:, TESTS], test_ids=torch.tensor(TESTS))
    direct = lds(study, scores, judge)
    cells = [found[f"lds_{end}percent"] for end in ("", "low_", "high_")]
    assert cells == pytest.approx([100 * direct.value, 100 * direct.interval.low, 100 * direct.interval.high])
    each = [spearmanr(scores.column(j), truth.column(j)).statistic for j in TESTS]
    assert found["leave_one_out_percent"] == pytest.approx(100 * np.mean(each))
    assert found["leave_one_out_low_percent"] < found["leave_one_out_percent"] < found["leave_one_out_high_percent"]
    wrong = detect(study, fitted.mislabel_scores())
    assert wrong.auc_interval is not None
    assert wrong.ap_interval is not None
    for area, value, interval in (("auc", wrong.auc, wrong.auc_interval), ("ap", wrong.ap, wrong.ap_interval)):
        cells = [found[f"{area}_{end}percent"] for end in ("", "low_", "high_")]
        assert cells == pytest.approx([100 * value, 100 * interval.low, 100 * interval.high])


def test_agreement_is_that_of_direct_calls(report: ic.evaluation.Comparison, study: ic.Study) -> None:
    scores = [ic.estimators.get(name).fit(study).influence(TESTS) for name in NAMES[:3]]
    every = [agreement(scores, j, 5) for j in TESTS]
    shared = np.mean([100 * one.overlap(side) / 5 for one in every for side in ("harmful", "helpful")], axis=0)
    alike = np.mean([100 * one.correlation for one in every], axis=0)
    assert report.shared is not None
    assert report.correlation is not None
    assert np.allclose(report.shared, shared)
    assert np.allclose(report.correlation, alike)
    for place, name in enumerate(NAMES[:3]):
        others = [i for i in range(3) if i != place]
        assert row(report, name)["top_5_shared_percent"] == pytest.approx(shared[place, others].mean())
        assert row(report, name)["correlation_with_others_percent"] == pytest.approx(alike[place, others].mean())


def test_leave_one_out_is_trained_where_its_ids_are_given(study: ic.Study, truth: Scores) -> None:
    found = compare(
        study, ["tracin"], test=TESTS, leave_one_out=[40, 2, 9, 30], retrain=convex_retrain, cost=False, agreement=False
    )
    assert found.leave_one_out is not None
    assert torch.allclose(found.leave_one_out.values, truth.values[[40, 2, 9, 30]][:, TESTS], atol=1e-12)
    scores = ic.estimators.TracIn().fit(study).influence(TESTS).values[[40, 2, 9, 30]]
    each = [spearmanr(scores[:, j], found.leave_one_out.values[:, j]).statistic for j in range(len(TESTS))]
    assert found.table["leave_one_out_percent"].item() == pytest.approx(100 * np.mean(each))


def test_kept_leave_one_out_is_that_of_this_process(study: ic.Study, truth: Scores, tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = ic.store.Store(tmp_path / "store")
    found = leave_one_out(study, [7, 1], [3, 0], convex_retrain, store=store)
    assert torch.allclose(found.values, truth.values[[7, 1]][:, [3, 0]], atol=1e-12)
    assert (found.kind, found.scale, found.train_ids.tolist()) == ("influence", "nats", [7, 1])


def test_trainings_of_another_study_are_refused(
    study: ic.Study, truth: Scores, report: ic.evaluation.Comparison
) -> None:
    other = study.replaced(weight_decay=0.5)
    with pytest.raises(StaleResult, match="retrainings belong to another study"):
        compare(other, NAMES, retrained=report.retrained)
    with pytest.raises(StaleResult, match="leave-one-out scores belong to another study"):
        compare(other, NAMES, leave_one_out=truth)


# --- trainings whose losses are set at will


def effects(seed: int = 0) -> Tensor:
    return torch.randn(TRAIN, TEST, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first_output(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs[:, 0]


def additive(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """Training on ``kept`` lowers each test loss by the sum of effects; the seed adds a lot to all."""
    model = nn.Linear(TEST, 2, bias=False).double()
    with torch.no_grad():
        model.weight[0] = 5.0 + 100 * seed - effects()[kept].sum(0)
    return model


class Knowing(Random):
    """A seed of 0 knows the effects; others know them with noise."""

    def _influence(self, test_ids: Tensor) -> Tensor:
        return (effects() + (effects(self.seed) if self.seed else 0.0))[:, test_ids]


@pytest.fixture(scope="module")
def planted() -> ic.Study:
    model = nn.Linear(TEST, 2, bias=False).double()
    train = LabelledDataset(TensorDataset(torch.rand(TRAIN, TEST).double(), torch.arange(TRAIN) % 2))
    test = LabelledDataset(TensorDataset(torch.eye(TEST).double(), torch.zeros(TEST, dtype=torch.long)))
    return ic.Study(model, train, test, loss=first_output)


def test_removal_is_the_sum_of_effects_against_random_images(planted: ic.Study) -> None:
    tests, seeds, count = [0, 2, 5], (0, 1, 2), 4
    knowing = [Knowing(), Knowing(seed=9)]
    found = compare(
        planted, knowing, test=tests, removal=0.1, retrain=additive, seeds=seeds, detection=False, cost=False
    )
    names = list(found.table["estimator"])
    assert names == ["random (seed=0)", "random (seed=9)"]
    random = []
    for seed in seeds:  # the sets that are drawn, as anybody can draw them
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))
        random.append(effects()[order[:count]][:, tests].sum(0))
    for name, one in zip(names, knowing, strict=True):
        total = one.fit(planted).influence(tests).values.sum(1)
        for side, order in (("helpful", total.argsort(descending=True)), ("harmful", total.argsort())):
            did = found.removals[name, side]
            assert did.removed.tolist() == order[:count].tolist()
            expected = effects()[did.removed][:, tests].sum(0) - torch.stack(random)
            assert torch.allclose(did.change, expected, atol=1e-9)
            means = expected.mean(1).numpy()
            low, high = stats.t.interval(0.95, len(seeds) - 1, means.mean(), stats.sem(means))
            cells = [row(found, name)[f"{side}_removed_{end}nats"] for end in ("", "low_", "high_")]
            assert cells == pytest.approx([means.mean(), low, high])
    assert row(found, names[0])["helpful_removed_nats"] >= row(found, names[1])["helpful_removed_nats"]
    said = " ".join(found.sentences())
    assert "4 images that random (seed=0) calls most helpful" in said
    assert "3 seeds), the most upwards of 2" in said


def test_one_seed_has_no_interval(planted: ic.Study) -> None:
    found = compare(planted, [Knowing()], removal=0.1, retrain=additive, detection=False, cost=False)
    assert found.table["harmful_removed_nats"].notna().all()
    assert found.table["harmful_removed_low_nats"].isna().all()
    why = found.reason(found.table["estimator"].item(), "harmful_removed_low_nats")
    assert why == "an interval takes two seeds or more"


def test_the_difference_of_two_estimators_is_judged_on_the_same_resamples(planted: ic.Study) -> None:
    kept = retrain_subsets(planted, additive, draw_subsets(TRAIN, 40))
    found = compare(planted, [Knowing(), Knowing(seed=9), "random"], test=range(TEST), retrained=kept, detection=False)
    names = list(found.table["estimator"])
    best, other = (found.lds[name] for name in names[:2])
    assert best.value == pytest.approx(1)
    low, _ = np.percentile((best.resampled - other.resampled).numpy(), [2.5, 97.5])
    assert low > 0
    sentence = next(s for s in found.sentences() if "LDS" in s)
    assert f"{names[0]} has the best LDS: 100.0 %" in sentence
    assert f"above {names[1]} beyond the interval of the difference" in sentence
    same = compare(planted, [Knowing(), Knowing()], test=range(TEST), retrained=kept, detection=False)
    assert "not told apart from random (2)" in " ".join(same.sentences())


# --- the pieces


def test_rank_correlation_and_shared_tops_are_those_of_agreement() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(-5, 6, (2, 30, 4), generator=generator).double()  # with many ties
    pair = [
        Scores(v, torch.arange(30), "influence", test_ids=torch.arange(4), meta={"estimator": n})
        for v, n in zip(values, "ab", strict=True)
    ]
    one, two = values
    for j in range(4):
        found = agreement(pair, j, 7)
        assert float(spearman(one, two)[j]) == pytest.approx(found.correlation.iloc[0, 1])
        assert float(shared_top(one, two, 7)[j]) == pytest.approx(found.overlap("helpful").iloc[0, 1] / 7)
        assert float(shared_top(one, two, 7, lowest=True)[j]) == pytest.approx(found.overlap("harmful").iloc[0, 1] / 7)
    assert (spearman(one, 3 * one + 1) == 1).all()  # exactly
    assert (spearman(one, torch.zeros_like(one)) == 0).all()


def test_a_tight_solve_is_leave_one_out(study: ic.Study, truth: Scores) -> None:
    found = compare(
        study, [ConjugateGradient(tolerance=1e-8, damping=0.0)], test=TESTS, leave_one_out=truth, cost=False
    )
    assert found.table["leave_one_out_percent"].item() > 97
