"""Brittleness against problems whose number is known: an additive oracle, class counts, and all subsets of a size."""

from __future__ import annotations

import itertools
from typing import ClassVar
from unittest import mock

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import ConjugateGradient, Loss, TracIn
from influence_core.evaluation import brittleness, leave_one_out
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.testing import problems

TRAIN, TEST = 12, 6


def effects() -> torch.Tensor:
    """What each training image adds to each logit of each test image, [N, M, 2]; most hold the prediction, class 1."""
    drawn = torch.rand(TRAIN, TEST, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return drawn * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 1.0])


def additive(study, kept, seed):
    """Logits are sums of effects; what a seed does to them reaches test image 0 alone."""
    model = nn.Linear(TEST, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(effects()[kept].sum(0).T)
        model.weight[0] += torch.tensor([12.8, 11.1, 11.7, 9.5, 5.3, 7.0])
        model.weight[0, 0] += 100 * (seed % 2)
    return model


def oracle() -> ic.Study:
    labels = torch.tensor([0, 1, 0, 1, 0, 1])  # of the test images: every other one is a mistake
    train = LabelledDataset(TensorDataset(torch.zeros(TRAIN, TEST).double(), torch.zeros(TRAIN, dtype=torch.long)))
    train = LabelledDataset(train.base, class_names=["no", "yes"])
    test = LabelledDataset(TensorDataset(torch.eye(TEST).double(), labels))
    return ic.Study(additive(None, torch.arange(TRAIN), 0), train, test)


class Known(TracIn):
    """Its influence on the margin is exact: what all labels have in common falls out."""

    scales: ClassVar = {"influence": "nats"}
    needs: ClassVar = frozenset()

    def _fit(self, study):
        pass

    def _influence(self, test_ids):
        inputs, labels = self.study_.test.batch(test_ids)
        return effects()[:, inputs.argmax(1), labels]


@pytest.fixture(scope="module")
def study():
    return oracle()


def fewest(gaps: torch.Tensor, margin: float) -> int:
    """Of all subsets the smallest whose effects on the margin exceed it."""
    for k in range(1, TRAIN + 1):
        subsets = torch.tensor(list(itertools.combinations(range(TRAIN), k)))
        if bool((gaps[subsets].sum(1) > margin).any()):
            return k
    raise AssertionError("no subset turns it over")


def test_the_number_found_is_that_of_brute_force_and_is_predicted(study):
    found = brittleness(study, Known(), range(TEST), additive, limit=TRAIN - 1, seeds=(0,))
    outputs = study.outputs("test")
    gaps = effects()[:, :, 1] - effects()[:, :, 0]
    expected = [fewest(gaps[:, j], float(outputs[j, 1] - outputs[j, 0])) for j in range(TEST)]
    assert found.table["k"].tolist() == expected
    assert found.table["predicted_k"].tolist() == expected
    assert len(set(expected)) >= 4
    assert found.table["prediction"].tolist() == ["yes"] * TEST
    assert found.table["becomes"].tolist() == ["no"] * TEST
    assert set(found.table["share"]) == set(found.table["held"]) == {1.0}
    for j, k in enumerate(expected):
        removed = found.removed(j)
        assert removed == torch.sort(gaps[:, j], descending=True).indices[:k].tolist()
        tried = found.tried[found.tried["test_id"] == j].set_index("k")["share"]
        assert tried[k] == 1
        assert k == 1 or tried[k - 1] == 0
        assert len(tried) <= 8


def test_scores_of_the_given_labels_rank_by_their_sign(study):
    """The influence on the loss with the given label, of two classes, is that on the margin with the sign of a hit."""
    gaps = effects()[:, :, 1] - effects()[:, :, 0]
    values = gaps * torch.where(study.test.labels == 1, 1.0, -1.0)
    scores = Scores(values, torch.arange(TRAIN), "influence", "nats", torch.arange(TEST))
    found = brittleness(study, scores, range(TEST), additive, limit=TRAIN - 1, seeds=(0,))
    exact = brittleness(study, Known(), range(TEST), additive, limit=TRAIN - 1, seeds=(0,))
    assert found.table["k"].tolist() == exact.table["k"].tolist()
    assert torch.equal(found.order, exact.order)
    assert found.table["predicted_k"].isna().all()
    assert brittleness(study, scores, None, additive, seeds=(0,)).table["test_id"].tolist() == [0, 2, 4]
    worst = Scores(-values, torch.arange(TRAIN), "influence", "nats", torch.arange(TEST))
    more = brittleness(study, worst, range(TEST), additive, limit=TRAIN - 1, seeds=(0,)).table["k"].fillna(99)
    assert (more >= exact.table["k"]).all()
    assert (more > exact.table["k"]).sum() >= 3


def test_what_turns_over_by_itself_is_told_apart(study):
    found = brittleness(study, Known(), range(TEST), additive, limit=TRAIN - 1, seeds=(0, 1, 2))
    once = brittleness(study, Known(), range(TEST), additive, limit=TRAIN - 1, seeds=(0,))
    assert found.table["held"][0] == pytest.approx(2 / 3)
    assert found.table["k"].tolist() == once.table["k"].tolist()  # the seed that does not hold it does not count
    itself = brittleness(study, Known(), [0, 1], additive, limit=TRAIN - 1, seeds=(1, 3, 0, 2))
    assert itself.table["status"].tolist() == ["flips by itself", "flipped"]
    assert itself.table["held"].tolist() == [0.5, 1.0]
    assert pd.isna(itself.table["k"][0])
    assert itself.removed(0) == []
    assert 0 not in itself.tried["test_id"].tolist()
    assert "1 turn over by themselves when the model is trained anew on everything." in itself.sentences()


def test_the_share_of_seeds_decides(study):
    def retrain(study, kept, seed):
        model = additive(study, kept, 0)
        if seed and len(kept) < TRAIN:
            model.weight.data[1] -= 100
        return model

    half = brittleness(study, Known(), [3], retrain, limit=2, seeds=(0, 1), majority=0.5).table.loc[0]
    assert (half["status"], half["share"]) == ("not within the limit", 0.5)
    any_ = brittleness(study, Known(), [3], retrain, limit=2, seeds=(0, 1), majority=0.0).table.loc[0]
    assert (any_["k"], any_["share"], any_["becomes"]) == (1, 0.5, "no")


def test_what_it_says(study):
    found = brittleness(study, Known(), range(TEST), additive, limit=4, seeds=(0,))
    k = found.table["k"].dropna()
    said = found.sentences()
    assert 0 < len(k) < TEST
    assert (
        said[0] == f"{len(k)} of 6 predictions turn over with up to 4 training images removed in the order of tracin."
    )
    assert "The sum of influences predicts 1 times that number" in " ".join(said)
    assert any(sentence.startswith("One seed was trained") for sentence in said)
    assert said[-1].startswith("Each number is an upper bound")
    assert repr(found) == (
        f"Brittleness(tracin: 6 test images, limit 4: {len(k)} flipped, {6 - len(k)} not within the limit)"
    )
    html = found._repr_html_()
    assert "predicted_k" in html
    assert all(sentence in html for sentence in said)
    with pytest.raises(InvalidInput, match="test image 77 was not looked at; there are 0, 1, 2"):
        found.removed(77)


def test_refusals(study):
    with pytest.raises(InvalidInput, match="limit is 12; it is the most images to remove, 1 to 11"):
        brittleness(study, Known(), [0], additive, limit=TRAIN)
    with pytest.raises(InvalidInput, match=r"majority is 1.0"):
        brittleness(study, Known(), [0], additive, majority=1.0)
    with pytest.raises(InvalidInput, match="seeds is empty"):
        brittleness(study, Known(), [0], additive, seeds=())
    with pytest.raises(NotSupported, match="gives no influence"):
        brittleness(study, Loss(), [0], additive)
    with pytest.raises(NotSupported, match="these are mislabel scores"):
        brittleness(study, Scores(torch.ones(TRAIN), torch.arange(TRAIN), "mislabel"), [0], additive)
    with pytest.raises(NotSupported, match="another label for test image 3 than the one of least loss"):
        brittleness(study.replaced(loss=lambda z, y: z.gather(1, y[:, None])[:, 0]), Known(), [3], additive)


def test_trainings_are_kept_and_found(tmp_path):
    study, store = problems.network_study(), Store(tmp_path)
    once = brittleness(study, TracIn(), [0, 4], limit=2, seeds=(0, 1), majority=0.0)
    kept = brittleness(study, TracIn(), [0, 4], limit=2, seeds=(0, 1), majority=0.0, store=store)
    assert kept.table.equals(once.table)
    with mock.patch("influence_core.store.retrainings.train_fresh", side_effect=AssertionError("trained again")):
        found = brittleness(study, TracIn(), [0, 4], limit=2, seeds=(0, 1), majority=0.0, store=store)
    assert found.table.equals(once.table)
    assert len(found.tried) >= 1


# --- convex models, trained to the minimum


def convex_retrain(study, kept, seed):
    return problems.minimum(study.train.subset(kept))


def counted_study(counts=(2, 5, 1)) -> ic.Study:
    """The images of a class are alike, so that the larger class is predicted; one pixel decides where they are even."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))

    def data(labels, name):
        inputs = torch.zeros(len(labels), 1, 4, 4, dtype=torch.float64)
        inputs[labels == 1, 0, 0, 0] = 0.05
        return LabelledDataset(TensorDataset(inputs, labels), name=name)

    return problems.solved_study(data(labels, "train"), data(torch.tensor([1, 1]), "test"), data(labels, "validation"))


@pytest.mark.parametrize("way", ["estimator", "scores"])
def test_the_majority_has_to_be_gone(way):
    """Of five images of class 1 four have to go before the two of class 0 outvote them: with three they are even."""
    study = counted_study()
    estimator = ConjugateGradient()
    scores = estimator if way == "estimator" else estimator.fit(study).influence()
    found = brittleness(study, scores, [0], convex_retrain, limit=6, seeds=(0,))
    assert found.table["k"].tolist() == [4]
    assert found.table["becomes"].tolist() == ["0"]
    assert set(found.removed(0)) < {2, 3, 4, 5, 6}
    assert dict(zip(found.tried["k"], found.tried["share"], strict=True)) == {1: 0, 2: 0, 4: 1, 3: 0}


def test_where_one_image_decides_it_is_found_first():
    """Every image is left out alone: where that turns a prediction over, one removal is found, and else more."""
    study = problems.convex_study()
    inputs, _ = study.test.batch(range(len(study.test)))
    p = study.probabilities("test").topk(2).values
    near = (p[:, 0] - p[:, 1]).sort().indices[:3].tolist()  # the least certain
    everything = torch.arange(len(study.train))

    def flips(*left_out):
        kept = everything[~torch.isin(everything, torch.tensor(left_out))]
        with torch.no_grad():
            return convex_retrain(study, kept, 0)(inputs).argmax(1) != study.predictions()

    single = torch.stack([flips(i) for i in range(48)]).any(0)
    assert 0 < int(single[near].sum()) < 3
    truth = leave_one_out(study, None, near, convex_retrain)
    for scores in (ConjugateGradient(damping=0.0), truth):
        found = brittleness(study, scores, near, convex_retrain, limit=10, seeds=(0,)).table.set_index("test_id")
        for j in near:
            k = found.loc[j, "k"]
            assert k == 1 if single[j] else pd.isna(k) or k > 1
