"""Stability of rankings over models, and sanity checks: scores have to change with what they explain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import EL2N, DataInf, LastLayer, Loss, TracIn
from influence_core.evaluation import rank_stability, sanity_checks
from influence_core.testing.problems import network_study
from influence_core.training import Trajectory, reinitialised

TESTS = [0, 4, 7]


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return network_study()


def same(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """A training that always ends at the study's own model."""
    return study.model


def redrawn(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    return reinitialised(study.model, seed)


# --- stability


@pytest.mark.parametrize("name", ["tracin", "lastlayer", "datainf", "loss"])
def test_identical_checkpoints_are_exactly_stable(study: ic.Study, name: str) -> None:
    last = study.trajectory[-1]
    copies = Trajectory([replace(last, step=step) for step in (1, 2, 5)], study.trajectory.recipe)
    still = study.replaced(model=study.at(last), trajectory=copies)
    found = rank_stability(still, name, "trajectory", test=TESTS)
    assert found.mean_correlation == found.mean_shared == 1
    assert found.table["model"].tolist() == ["step 1", "step 2", "step 5"]
    assert (found.table.iloc[:, 1:] == 100).all(axis=None)


def test_identical_models_of_several_seeds_are_exactly_stable(study: ic.Study) -> None:
    found = rank_stability(study, "lastlayer", (3, 5), test=TESTS, retrain=same)
    assert found.mean_correlation == found.mean_shared == 1
    assert (found.table.iloc[:, 1:] == 100).all(axis=None)


def test_numbers_are_those_of_estimators_on_each_model(study: ic.Study) -> None:
    found = rank_stability(study, LastLayer(), (0, 1), test=TESTS, k=3, retrain=redrawn)
    models = [study.replaced(model=reinitialised(study.model, seed)) for seed in (0, 1)]
    scores = [LastLayer().fit(one).influence(TESTS) for one in (*models, study)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    alike, common = [], []
    for a, b in pairs:
        alike.append(np.mean([spearmanr(scores[a].column(j), scores[b].column(j)).statistic for j in TESTS]))
        tops = [
            len({*getattr(scores[a], side)(j, 3)["train_id"]} & {*getattr(scores[b], side)(j, 3)["train_id"]}) / 3
            for j in TESTS
            for side in ("harmful", "helpful")
        ]
        common.append(np.mean(tops))
    assert found.mean_correlation == pytest.approx(alike[0])
    assert found.mean_shared == pytest.approx(common[0])
    assert found.table["correlation_with_study_percent"].tolist() == pytest.approx([100 * a for a in alike[1:]])
    assert found.table["top_3_shared_with_study_percent"].tolist() == pytest.approx([100 * c for c in common[1:]])
    assert found.chance_percent == pytest.approx(100 * 3 / 24)
    assert found.mean_correlation < 0.99


def test_retrained_models_keep_as_many_checkpoints(study: ic.Study) -> None:
    found = rank_stability(study, "tracin", (0, 1), test=TESTS)
    assert 0 < found.mean_correlation < 1
    assert (found.what, found.over) == ("influence", "seeds")
    assert "tracin" in found.sentences()[0]
    again = rank_stability(study, "tracin", (0, 1), test=TESTS)
    assert again.table.equals(found.table)
    with pytest.raises(NotSupported, match="checkpoints"):
        rank_stability(study, "tracin", (0, 1), test=TESTS, retrain=redrawn)


def test_the_seed_of_the_study_itself_is_not_counted_as_another(study: ic.Study) -> None:
    def own_or_new(one: ic.Study, kept: Tensor, seed: int) -> nn.Module:
        return one.model if seed == 0 else redrawn(one, kept, seed)

    found = rank_stability(study, "lastlayer", (0, 1, 2), test=TESTS, retrain=own_or_new)
    shared = found.table.iloc[:, 2].tolist()
    assert shared[0] == 100 > max(shared[1:])
    said = f"shares {sum(shared[1:]) / 2:.0f} % with those that are not itself"
    assert said in found.sentences()[1]


def test_suspicion_has_one_side_and_no_test_images(study: ic.Study) -> None:
    found = rank_stability(study, "loss", (0, 1), retrain=redrawn, k=4)
    assert (found.what, found.test_ids) == ("mislabel_scores", None)
    losses = [study.replaced(model=reinitialised(study.model, seed)).losses("train") for seed in (0, 1)]
    tops = [{*one.topk(4).indices.tolist()} for one in losses]
    assert found.mean_shared == pytest.approx(len(tops[0] & tops[1]) / 4)
    assert found.mean_correlation == pytest.approx(spearmanr(*losses).statistic)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"over": (0,)}, InvalidInput, "two seeds or more"),
        ({"over": (1, 1)}, InvalidInput, "each once"),
        ({"over": "epochs"}, InvalidInput, "'trajectory'"),
        ({"k": 0}, InvalidInput, "k is 0"),
        ({"what": "beauty"}, InvalidInput, "what is 'beauty'"),
        ({"estimator": "random", "what": "influence"}, NotSupported, "Random .* gives no influence"),
        ({"estimator": "gif"}, NotSupported, "gives no influence"),
    ],
)
def test_refusals(study: ic.Study, arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rank_stability(study, **({"estimator": "lastlayer", "over": "trajectory"} | arguments))  # type: ignore[arg-type]


def test_a_trajectory_of_one_is_refused(study: ic.Study) -> None:
    for trajectory, words in ((None, "has no checkpoint"), (study.trajectory[-1:], "has one checkpoint")):
        with pytest.raises(NotSupported, match=words):
            rank_stability(study.replaced(trajectory=trajectory), "lastlayer", "trajectory")


# --- sanity


@pytest.fixture(scope="module")
def checks(study: ic.Study) -> ic.evaluation.SanityChecks:
    return sanity_checks(study, ["lastlayer", "tracin", "random", EL2N(runs=1), "loss", "gif"], test=TESTS)


def number(checks: ic.evaluation.SanityChecks, name: str, check: str, column: str = "correlation_percent") -> float:
    table = checks.table
    return float(table.loc[(table["estimator"] == name) & (table["check"] == check), column].item())


def test_who_ignores_the_model_is_called_out(checks: ic.evaluation.SanityChecks) -> None:
    assert checks.independent == ["random", "el2n"]
    for check in ("random weights", "learned random labels", "given random labels"):
        assert number(checks, "random", check) == 100
        assert number(checks, "random", check, "within_class_percent") == 100
        assert number(checks, "random", check, "top_10_shared_percent") == 100
    assert number(checks, "el2n", "learned random labels") == 100
    assert number(checks, "el2n", "given random labels") < 90
    said = checks.sentences()
    assert said[0] == "random: the scores depend neither on the model nor on the labels."
    assert said[1] == "el2n: the scores do not depend on the study's model, but on the labels."
    assert (checks.table["random_percent"] == 100).all()


def test_who_looks_at_model_and_checkpoints_is_not(checks: ic.evaluation.SanityChecks) -> None:
    for name in ("lastlayer", "tracin", "loss"):
        for check in ("random weights", "learned random labels", "given random labels"):
            assert number(checks, name, check) < 99.9


def test_who_refuses_has_a_reason_in_its_rows(checks: ic.evaluation.SanityChecks) -> None:
    rows = checks.table[checks.table["estimator"] == "gif"]
    assert rows["correlation_percent"].isna().all()
    assert rows["why_empty"].str.startswith("GIF gives no influence").all()
    assert (checks.table.loc[checks.table["estimator"] != "gif", "why_empty"] == "").all()
    assert checks.sentences()[-1].startswith("gif: GIF gives no influence")
    assert "independent of the model: random, el2n" in repr(checks)
    assert "–" in checks._repr_html_()


@pytest.mark.parametrize("estimator", [DataInf(), Loss()])
def test_numbers_are_those_of_randomised_studies(study: ic.Study, estimator: ic.estimators.Estimator) -> None:
    found = sanity_checks(study, estimator, test=TESTS, seed=2, retrain=redrawn)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    shuffled = study.train.with_labels(study.train.labels[order])
    model = reinitialised(study.model, 2)
    studies = {
        "random weights": study.replaced(model=model),
        "learned random labels": study.replaced(model=model),  # here training is drawing weights, with the same seed
        "given random labels": study.replaced(model=model, train=shuffled),
    }

    def asked(one: ic.Study) -> Tensor:
        fitted = type(estimator)().fit(one)
        return (
            fitted.influence(TESTS).values
            if isinstance(estimator, DataInf)
            else fitted.mislabel_scores().values[:, None]
        )

    own = asked(study)
    for check, other in studies.items():
        each = [spearmanr(a, b).statistic for a, b in zip(own.T, asked(other).T, strict=True)]
        assert number(found, estimator.name, check) == pytest.approx(100 * np.mean(each))
        within = [
            np.mean([spearmanr(a[rows], b[rows]).statistic for a, b in zip(own.T, asked(other).T, strict=True)])
            for rows in (study.train.labels == label for label in range(3))
        ]
        counts = study.train.labels.bincount().numpy()
        expected = 100 * np.average(within, weights=counts)
        assert number(found, estimator.name, check, "within_class_percent") == pytest.approx(expected)


def test_checkpoints_are_randomised_too(study: ic.Study) -> None:
    found = sanity_checks(study, TracIn(), test=TESTS, retrain=redrawn)
    assert number(found, "tracin", "random weights") < 99
    assert found.table.loc[found.table["check"] != "random weights", "why_empty"].str.contains("checkpoints").all()


def test_sanity_refusals(study: ic.Study) -> None:
    with pytest.raises(InvalidInput, match="no estimator to check"):
        sanity_checks(study, [])
    with pytest.raises(InvalidInput, match="k is 0"):
        sanity_checks(study, "loss", k=0)
    data = torch.utils.data.TensorDataset(torch.rand(6, 1, 4, 4).double(), torch.rand(6, 2).double())
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    general = ic.Study(model, data, data, loss=lambda outputs, labels: (outputs - labels).square().sum(1))
    with pytest.raises(NotSupported, match="needs class labels"):
        sanity_checks(general, "tracin")
