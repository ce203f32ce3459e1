"""What the detection baselines take, refuse and say. Their numbers are checked in tests/oracle."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import EL2N, ConfidentLearning, DeepKNN, Forgetting, Random
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.training import Recipe, Trajectory
from tests.helpers import images, net, states_equal, study

TRAINED = [EL2N, Forgetting, ConfidentLearning]
every = pytest.mark.parametrize("cls", TRAINED, ids=lambda c: c.__name__)


@pytest.fixture(scope="module")
def small():
    return study()


def wrong(values, data) -> float:
    """Share of pairs of a wrong and a right label of which the wrong one has the higher score; ties count half."""
    one, two = values[data.corrupted][:, None], values[~data.corrupted][None]
    return float(((one > two).double() + 0.5 * (one == two).double()).mean())


@pytest.mark.parametrize(
    ("cls", "given", "words"),
    [
        (EL2N, {"runs": 0}, "runs is 0"),
        (EL2N, {"min_epochs": 0}, "min_epochs is 0"),
        (EL2N, {"epoch_share": 0.0}, "epoch_share is 0.0.*share"),
        (EL2N, {"epoch_share": float("nan")}, "epoch_share is nan"),
        (Forgetting, {"epoch_share": -1.0}, "epoch_share is -1.0"),
        (Forgetting, {"source": "log"}, "source is 'log'; choose 'training' or 'checkpoints'"),
        (ConfidentLearning, {"folds": 1}, "folds is 1; at least 2"),
        (ConfidentLearning, {"method": "margin"}, "method is 'margin'; choose 'self_confidence', "),
        (ConfidentLearning, {"epoch_share": 0}, "epoch_share is 0"),
        (DeepKNN, {"k": 0}, "k is 0"),
        (DeepKNN, {"last": 0}, "last is 0"),
        (DeepKNN, {"layer": "features"}, "layer is 'features'; choose 'penultimate' or 'logits'"),
    ],
)
def test_parameters_are_checked(cls, given, words):
    with pytest.raises(InvalidInput, match=words):
        cls(**given)


@every
def test_the_recipe_is_stated(small, cls):
    recipe = cls().fit(small).mislabel_scores().meta["recipe"]
    assert recipe == {k: v for k, v in small.trajectory.recipe.facts().items() if k != "seed"}


@every
@pytest.mark.parametrize("bare", [True, False], ids=["no trajectory", "no recipe"])
def test_without_a_recipe_training_takes_the_defaults_of_fit(small, cls, bare):
    other = small.replaced(trajectory=None if bare else Trajectory(small.trajectory.checkpoints))
    scores = cls().fit(other).mislabel_scores()
    recipe = scores.meta["recipe"]
    assert recipe["weight_decay"] == small.weight_decay == 1e-3
    model = net().train()
    assert Recipe(**recipe) == ic.training.fit(model, images(), weight_decay=1e-3).recipe
    assert wrong(scores.values, small.train) > 0.5


@pytest.mark.parametrize("lacking", ["epochs", "batch_size", "learning_rate"])
def test_half_a_recipe_is_none(small, lacking):
    recipe = Recipe(**(small.trajectory.recipe.facts() | {lacking: 0}))
    other = small.replaced(trajectory=Trajectory(small.trajectory.checkpoints, recipe))
    assert recipe_of(other) == recipe_of(small.replaced(trajectory=None))
    assert recipe_of(small) == small.trajectory.recipe != recipe_of(other)


@every
def test_weights_and_batches_depend_on_the_seed(small, cls):
    one, two = (cls(seed=seed).fit(small).mislabel_scores().values for seed in (0, 1))
    assert not torch.equal(one, two)


@every
def test_another_loss_is_used_in_training(small, cls):
    def half(outputs, labels):
        return 0.01 * ic.losses.cross_entropy(outputs, labels)

    plain, other = (cls().fit(s).mislabel_scores().values for s in (small, small.replaced(loss=half)))
    assert not torch.equal(plain, other)


def test_progress_says_which_training_it_is(small):
    said = []
    with ic.progress.listen(lambda what, done, total: said.append((what, done, total))):
        EL2N(runs=2).fit(small)
        ConfidentLearning(folds=3).fit(small)
        Forgetting().fit(small)
    for title in ("EL2N: training 2 of 2", "Confident learning: fold 3 of 3", "Forgetting: training"):
        assert any(what == title and done == total > 1 for what, done, total in said), title


def test_a_model_that_cannot_be_drawn_again_is_refused(small):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.shift = net(), nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            return self.inner(x) + self.shift

    odd = ic.Study(Odd(), small.train, small.test)
    with pytest.raises(NotSupported, match=r"Odd with the parameter 'shift'"):
        EL2N().fit(odd)
    assert len(DeepKNN(layer="logits").fit(odd).mislabel_scores().values) == 24


# --- forgetting


def test_ties_are_broken_by_less_than_one_event(small):
    whole = Forgetting().fit(small).mislabel_scores().values
    broken = Forgetting(break_ties=True).fit(small).mislabel_scores().values
    assert torch.equal(broken.floor(), whole)
    assert float((broken - whole).max()) < 0.5
    assert len(whole.unique()) < len(broken.unique()) == 24
    again = Forgetting(break_ties=True).fit(small)
    assert torch.equal(again.mislabel_scores().values, broken)
    assert torch.equal(again.mislabel_scores().values, broken)  # not drawn anew on every call


def test_forgetting_needs_checkpoints_to_count_over(small):
    for trajectory in (None, small.trajectory[-1:]):
        with pytest.raises(NotSupported, match=r"two checkpoints or more.*source='training' needs none"):
            Forgetting(source="checkpoints").fit(small.replaced(trajectory=trajectory))


def test_what_is_never_learned_comes_first(small):
    """The code of the GEX comparison gives it 0, as if it had been learned at once."""
    two = Trajectory([small.trajectory[0], small.trajectory[-1]])
    inputs, _ = small.train.batch(range(24))
    with torch.no_grad():
        early, late = (small.at(checkpoint)(inputs).argmax(1) for checkpoint in two)
    stable = (early == late).nonzero().flatten()[:4]
    for forgotten in (early != late, torch.zeros(24, dtype=torch.bool)):
        labels = torch.where(forgotten, early, late)
        labels[stable] = (late[stable] + 1) % 3
        data = LabelledDataset(TensorDataset(inputs, labels))
        scores = Forgetting(source="checkpoints").fit(small.replaced(train=data, trajectory=two)).mislabel_scores()
        expected = forgotten.double()
        expected[stable] = expected.max() + 1
        assert torch.equal(scores.values, expected)
    assert 0 < int((early != late).sum()) < 20


# --- nearest neighbours


def grouped(copies: int = 3) -> ic.Study:
    """Every image several times over; the model adds up its rows."""
    base = torch.rand(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs, labels = base.repeat_interleave(copies, 0), torch.arange(4).repeat_interleave(copies) % 2
    labels[0] = 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2).double())
    data = LabelledDataset(TensorDataset(inputs, labels))
    return ic.Study(model, data, data)


def test_an_image_is_no_neighbour_of_itself_even_among_copies():
    scores = DeepKNN(k=2).fit(grouped(3))
    assert scores.label_influence().values[0].tolist() == [1.0, 0.0]
    assert scores.mislabel_scores().values[:3].tolist() == [2.0, 0.5, 0.5]
    crowded = DeepKNN(k=1).fit(grouped(3)).label_influence().values
    assert set(crowded.sum(1).tolist()) == {1.0}  # one vote each, whichever copies are nearest


def test_without_a_trajectory_the_model_alone_is_asked(small):
    bare = DeepKNN(k=5).fit(small.replaced(trajectory=None)).mislabel_scores()
    last = DeepKNN(k=5, last=1).fit(small).mislabel_scores()
    assert states_equal(small.model, small.at(small.trajectory[-1]))
    assert torch.equal(bare.values, last.values)
    assert bare.meta["k"] == 5
    assert DeepKNN().fit(small).mislabel_scores().meta["k"] == 8  # 24 images of 3 classes


def test_neighbour_refusals(small):
    with pytest.raises(InvalidInput, match="k is 24; each of the 24 training images has 23 others"):
        DeepKNN(k=24).fit(small)
    DeepKNN(k=23).fit(small)
    softmax = nn.Sequential(net(), nn.LogSoftmax(1))
    with pytest.raises(NotSupported, match=r"does not end in a linear layer.*layer='logits' takes any"):
        DeepKNN().fit(ic.Study(softmax, small.train, small.test))
    frozen = ic.Study(net(), small.train, small.test)
    frozen.model[4].requires_grad_(False)
    DeepKNN().fit(frozen)  # nothing is learned in the layer, only read


# --- confident learning


def test_without_cleanlab(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    estimator = ConfidentLearning().fit(small)
    scores = estimator.mislabel_scores()
    assert scores.meta["label_issues"] is None
    p = estimator.label_influence().values.exp()
    assert torch.allclose(scores.values, 1 - p[torch.arange(24), small.train.labels])
    assert torch.allclose(p.sum(1), torch.ones(24, dtype=torch.float64))
    with pytest.raises(NotSupported, match=r"pip install 'influence-core\[cleanlab\]'"):
        ConfidentLearning(method="normalized_margin").fit(small)


def test_rare_classes(small):
    inputs, labels = small.train.batch(range(24))
    labels = labels.clone()
    labels[labels == 2] = 1
    labels[3] = 2  # an image alone in its class
    rare = small.replaced(train=LabelledDataset(TensorDataset(inputs, labels)))
    scores = ConfidentLearning(folds=4).fit(rare).mislabel_scores()
    assert int(scores.values.argmax()) == 3  # its model has never seen the class
    one = small.replaced(train=LabelledDataset(TensorDataset(inputs, torch.zeros(24, dtype=torch.long))))
    assert len(ConfidentLearning().fit(one).mislabel_scores().values) == 24
    few = small.replaced(train=small.train.subset(range(6)))
    with pytest.raises(InvalidInput, match="folds is 5, but the largest class has"):
        ConfidentLearning(folds=5).fit(few)


# --- random numbers


def test_random_numbers_are_seeded_and_normal(small):
    values = Random(seed=3).fit(small).mislabel_scores().values
    assert torch.equal(values, Random(seed=3).fit(study(noise=0.0)).mislabel_scores().values)
    assert not torch.equal(values, Random(seed=4).fit(small).mislabel_scores().values)
    many = small.replaced(train=small.train.subset(list(range(24)) * 100))
    drawn = Random().fit(many).mislabel_scores().values
    assert abs(float(drawn.mean())) < 0.1
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)
