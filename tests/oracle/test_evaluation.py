"""Evaluation against problems whose answer is known: an additive oracle, and a convex model solved to its minimum."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators import Loss, TracIn
from influence_core.evaluation import combine, draw_subsets, lds, leave_one_out, retrain_subsets
from influence_core.gradients import per_sample_gradients
from influence_core.scores import Scores
from influence_core.testing import problems

TRAIN, TEST = 30, 20


def effects(seed: int = 0) -> torch.Tensor:
    return torch.randn(TRAIN, TEST, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first_output(outputs, labels):
    return outputs[:, 0]


def oracle() -> ic.Study:
    """Test image j is the unit vector j, and the loss is the first output, so a linear model sets each loss at will."""
    model = nn.Linear(TEST, 2, bias=False).double()
    train = LabelledDataset(TensorDataset(torch.zeros(TRAIN, TEST).double(), torch.zeros(TRAIN, dtype=torch.long)))
    test = LabelledDataset(TensorDataset(torch.eye(TEST).double(), torch.zeros(TEST, dtype=torch.long)))
    return ic.Study(model, train, test, loss=first_output)


def additive(study, kept, seed):
    """Training on ``kept`` lowers each test loss by the sum of effects, plus what the seed does to all."""
    model = nn.Linear(TEST, 2, bias=False).double()
    with torch.no_grad():
        model.weight[0] = 5.0 + seed - effects()[kept].sum(0)
    return model


def as_scores(study: ic.Study, values: torch.Tensor, **parts) -> Scores:
    known = {"train_ids": torch.arange(TRAIN), "test_ids": torch.arange(TEST), "kind": "influence"}
    return Scores(values, **(known | {"meta": {"estimator": "oracle", "study": study.fingerprint}} | parts))


@pytest.fixture(scope="module")
def study():
    return oracle()


@pytest.fixture(scope="module")
def retrained(study):
    return retrain_subsets(study, additive, draw_subsets(TRAIN, 40), seeds=(0, 2))


def test_retrained_losses(study, retrained):
    expected = 5 + 1 - retrained.kept.double() @ effects()
    assert torch.allclose(retrained.losses, expected, atol=1e-12)
    assert retrained.meta["seeds"] == [0, 2]
    part = retrain_subsets(study, additive, retrained.kept[:3], test=[7, 2])
    assert torch.allclose(part.losses, expected[:3, [7, 2]] - 1, atol=1e-12)


def test_the_oracle_scores_one(study, retrained):
    found = lds(study, as_scores(study, effects()), retrained)
    assert found.value == pytest.approx(1, abs=1e-12)
    assert found.interval.low == pytest.approx(1, abs=1e-9)
    assert lds(study, as_scores(study, 7 * effects() + 3), retrained).value == pytest.approx(1, abs=1e-12)
    flipped = lds(study, as_scores(study, -effects()), retrained)
    assert flipped.value == pytest.approx(-1, abs=1e-12)
    assert flipped.name == "oracle"


def test_chance_scores_nothing(study, retrained):
    """20 columns and 40 subsets: the mean of 20 correlations has a standard error of 1 / sqrt(20 * 39) = 0.04."""
    found = lds(study, as_scores(study, effects(1)), retrained)
    assert abs(found.value) < 0.16
    assert found.interval.low < 0 < found.interval.high
    assert lds(study, as_scores(study, torch.zeros(TRAIN, TEST)), retrained).value == 0


def test_rank_correlation_is_scipys(study, retrained):
    values = effects() + 2 * effects(1)
    values[:, 3] = values[:, 3].round()  # equal predictions among them
    found = lds(study, as_scores(study, values), retrained)
    predicted = (retrained.kept.double() @ values).numpy()
    each = [spearmanr(predicted[:, j], -retrained.losses[:, j].numpy()).statistic for j in range(TEST)]
    assert torch.allclose(found.per_test, torch.tensor(each, dtype=torch.float64), atol=1e-12)
    assert found.value == pytest.approx(sum(each) / TEST)
    assert found.interval.low < found.value < found.interval.high


def test_the_interval_holds_the_value_of_many_subsets(study):
    """With 20 draws of 40 subsets the 95 % interval misses the value of 2000 subsets more than 4 times in 0.3 %."""
    scores = as_scores(study, effects() + 2 * effects(1))
    many = lds(study, scores, retrain_subsets(study, additive, draw_subsets(TRAIN, 2000, seed=99))).value
    missed = 0
    for seed in range(20):
        found = lds(study, scores, retrain_subsets(study, additive, draw_subsets(TRAIN, 40, seed=seed)))
        missed += not found.interval.low <= many <= found.interval.high
    assert missed <= 4


def test_columns_are_found_by_id(study):
    some = retrain_subsets(study, additive, draw_subsets(TRAIN, 10), test=[7, 2])
    order = torch.tensor([2, 9, 7])
    scores = as_scores(study, effects()[:, order], test_ids=order)
    assert lds(study, scores, some).value == pytest.approx(1)
    assert lds(study, scores, some).test_ids.tolist() == [7, 2]
    with pytest.raises(InvalidInput, match="no scores for test image 7"):
        lds(study, as_scores(study, effects()[:, :2], test_ids=torch.arange(2)), some)


def test_combine(study, retrained):
    parts = [lds(study, as_scores(study, effects() + a * effects(1)), retrained, seed=a) for a in (1, 2)]
    both = combine(parts)
    assert both.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    width = [part.interval.high - part.interval.low for part in (*parts, both)]
    assert width[2] < max(width[:2])
    assert len(both.per_test) == 2 * TEST
    with pytest.raises(InvalidInput, match="one estimator, got none"):
        combine([])


def test_saved_retrainings(study, retrained, tmp_path):
    retrained.save(tmp_path / "r.safetensors")
    loaded = ic.evaluation.Retrained.load(tmp_path / "r.safetensors", study)
    assert torch.equal(loaded.losses, retrained.losses)
    assert torch.equal(loaded.kept, retrained.kept)
    assert loaded.meta == retrained.meta
    with pytest.raises(StaleResult, match="belong to another study"):
        ic.evaluation.Retrained.load(tmp_path / "r.safetensors", study.replaced(weight_decay=0.5))
    as_scores(study, effects()).save(tmp_path / "s.safetensors")
    with pytest.raises(InvalidInput, match="holds no retrainings"):
        ic.evaluation.Retrained.load(tmp_path / "s.safetensors")


def test_refusals(study, retrained):
    with pytest.raises(StaleResult, match="retrainings belong to another study"):
        lds(study.replaced(weight_decay=0.5), as_scores(study, effects()), retrained)
    with pytest.raises(StaleResult, match="oracle scores belong to another study"):
        lds(study, as_scores(study, effects(), meta={"estimator": "oracle", "study": "x"}), retrained)
    mislabel = Scores(torch.ones(TRAIN), torch.arange(TRAIN), "mislabel")
    with pytest.raises(NotSupported, match="these are mislabel scores"):
        lds(study, mislabel, retrained)
    with pytest.raises(InvalidInput, match="scores for 29 of 30"):
        lds(study, as_scores(study, effects()[1:], train_ids=torch.arange(1, TRAIN)), retrained)
    with pytest.raises(InvalidInput, match=r"share=0.001 of 30 images"):
        draw_subsets(TRAIN, share=0.001)
    with pytest.raises(InvalidInput, match=r"expected bool \[subsets, 30 training images\]"):
        retrain_subsets(study, additive, torch.ones(4, TRAIN))
    with pytest.raises(InvalidInput, match="seeds is empty"):
        retrain_subsets(study, additive, retrained.kept, seeds=())
    with pytest.raises(InvalidInput, match="no test image 20; ids go from 0 to 19"):
        retrain_subsets(study, additive, retrained.kept, test=[20])
    with pytest.raises(InvalidInput, match="no train image 30"):
        leave_one_out(study, [30], None, additive)
    with pytest.raises(InvalidInput, match="NaN"):
        dataclasses.replace(retrained, losses=retrained.losses / 0)


def test_subsets_are_random_halves():
    kept = draw_subsets(TRAIN, 200, 0.3, seed=4)
    assert (kept.sum(1) == 9).all()
    assert torch.equal(kept, draw_subsets(TRAIN, 200, 0.3, seed=4))
    assert not torch.equal(kept, draw_subsets(TRAIN, 200, 0.3, seed=5))
    assert ((kept.double().mean(0) - 0.3).abs() < 5 * (0.3 * 0.7 / 200) ** 0.5).all()


# --- leave-one-out, and a convex model


def test_leave_one_out_of_the_oracle(study):
    found = leave_one_out(study, [4, 1], [0, 5, 2], additive, seeds=(0, 1))
    assert torch.allclose(found.values, effects()[[4, 1]][:, [0, 5, 2]], atol=1e-12)
    assert (found.train_ids.tolist(), found.test_ids.tolist()) == ([4, 1], [0, 5, 2])
    assert (found.kind, found.scale, found.name) == ("influence", "nats", "leave_one_out")
    assert found.meta["study"] == study.fingerprint


def convex_retrain(study, kept, seed):
    return problems.minimum(study.train.subset(kept))


def newton(study: ic.Study) -> torch.Tensor:
    """H^-1 of the penalised loss, dense: the influence that theory gives for a convex model, [N, M]."""
    inputs, _ = study.train.batch(range(len(study.train)))
    x = torch.cat([inputs.flatten(1), torch.ones(len(inputs), 1).double()], 1)
    p = study.probabilities("train")
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    hessian = torch.einsum("nab,ni,nj->aibj", spread, x, x).reshape(51, 51) / len(x)
    hessian += problems.PENALTY * torch.eye(51).double()

    def rows(data):
        g = per_sample_gradients(study.model, study.loss, data)
        return torch.cat([g["1.weight"], g["1.bias"][..., None]], 2).flatten(1)

    return rows(study.train) @ torch.linalg.solve(hessian, rows(study.test).T) / len(x)


def test_a_convex_model():
    study = problems.convex_study()
    truth = leave_one_out(study, None, None, convex_retrain)
    assert torch.allclose(truth.values, problems.leave_one_out_effects(), atol=1e-12)
    gradients = per_sample_gradients(study.model, study.loss, study.train)
    for name, parameter in study.model.named_parameters():  # the study's model is at the minimum
        assert (gradients[name].mean(0) + problems.PENALTY * parameter).abs().max() < 1e-12
    exact = newton(study)
    for j in range(12):
        assert torch.corrcoef(torch.stack([exact[:, j], truth.values[:, j]]))[0, 1] > 0.98
    retrained = retrain_subsets(study, convex_retrain, draw_subsets(48, 50, 0.8))
    meta = {"estimator": "newton", "study": study.fingerprint}
    best = lds(study, dataclasses.replace(truth, values=exact, meta=meta), retrained)
    tracin = lds(study, TracIn(), retrained)
    assert best.value > 0.9
    assert tracin.value < best.interval.low
    assert tracin.value > 0.2
    with pytest.raises(NotSupported, match="gives no influence"):
        lds(study, Loss(), retrained)


def test_the_influence_of_a_group_is_the_sum(study):
    scores = as_scores(study, effects())
    assert torch.allclose(scores.group([3, 17, 5]), effects()[3] + effects()[17] + effects()[5])
    some = as_scores(study, effects()[[9, 4]], train_ids=torch.tensor([9, 4]))
    assert torch.allclose(some.group(torch.tensor([4])), effects()[4])
    with pytest.raises(InvalidInput, match="no scores for training image 3; there are some for 9, 4"):
        some.group([4, 3])
    with pytest.raises(InvalidInput, match="each once"):
        scores.group([3, 3])
    with pytest.raises(NotSupported, match="these are mislabel scores"):
        Scores(torch.ones(TRAIN), torch.arange(TRAIN), "mislabel").group([1])
