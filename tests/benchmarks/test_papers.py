"""The arithmetic behind PAPERS.md, against closed forms, loops and what the estimators themselves say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import influence_core as ic
from influence_core.applications import soft_cross_entropy, soft_labels
from tests.benchmarks import editing, papers
from tests.benchmarks.paper_tables import backdoor, fvm, gex, sam, shared, sources


def tiny(classes: int = 3, count: int = 12) -> ic.Study:
    """A softmax regression in float64, some of whose labels are wrong."""
    torch.manual_seed(0)
    model = nn.Linear(4, classes).double()
    inputs, labels = torch.randn(3 * count, 4, dtype=torch.float64), torch.randint(classes, (3 * count,))
    parts = [TensorDataset(inputs[i::3], labels[i::3]) for i in range(3)]
    given = labels[0::3].clone()
    given[:4] = (given[:4] + 1) % classes
    train = ic.data.LabelledDataset(parts[0], labels=given, true_labels=labels[0::3], name="train")
    trajectory = ic.training.fit(model, train, epochs=3, batch_size=4)
    return ic.Study(model, train, parts[1], parts[2], trajectory)


def test_labels_of_equation_16_have_the_loss_of_not_being_the_given_one():
    p = torch.randn(7, 5, dtype=torch.float64).softmax(1)
    given = torch.randint(5, (7,))
    targets = soft_labels(p, given)
    own = p.gather(1, given[:, None])[:, 0]
    torch.testing.assert_close(-(targets * p.log()).sum(1), -torch.log(1 - own))
    assert targets.gather(1, given[:, None]).abs().max() == 0
    assert targets.min() >= 0
    torch.testing.assert_close(soft_cross_entropy(p.log(), targets), -torch.log(1 - own))


def test_a_certain_model_gives_finite_labels():
    assert soft_labels(torch.eye(3), torch.tensor([0, 0, 1])).isfinite().all()


def test_the_four_terms_are_those_of_a_loop():
    study = tiny()

    def gradients(data):
        rows = []
        for i in range(len(data)):
            x, y = data.batch([i])
            loss = nn.functional.cross_entropy(study.model(x), y)
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(study.model.parameters()))]))
        return torch.stack(rows)

    own, clean = gradients(study.train), gradients(study.split("validation"))
    shift = {name: g.square().mean(0) for name, g in (("standard", own), ("ours", clean))}
    inverse = {name: 1 / (p + fvm.DAMPING * p.mean()) for name, p in shift.items()}
    found = fvm.four_terms(study)
    for name, h in inverse.items():
        torch.testing.assert_close(found[f"standard loss, {name} weights"], -own @ (h * clean.mean(0)))
        moved = own * h
        torch.testing.assert_close(found[f"our loss, {name} weights"], moved.square() @ (1 / inverse["ours"]))


@pytest.mark.parametrize("name", ["datainf", "samgif", "ekfac"])
def test_worth_is_the_mean_influence_on_the_set(name):
    study = tiny()
    every = study.replaced(test=study.split("validation"))
    expected = shared.made(name).fit(every).influence().values.mean(1)
    torch.testing.assert_close(shared.worth(study, name), expected)
    assert not torch.equal(shared.worth(study, name, "test"), expected)


def test_members_in_the_place_of_checkpoints_are_those_of_gex():
    study = tiny()
    ensemble = ic.estimators.GEX(members=2, epochs=1.0, batch_size=4)
    around = gex.members_as_checkpoints(study, ensemble)
    changes = ensemble.fit(study).changes_["train"]
    for m, member in enumerate(around):
        losses = study.replaced(model=study.at(member), trajectory=None).losses("train")
        torch.testing.assert_close(losses - study.losses("train"), changes[:, m])


def test_without_nothing_is_the_training_again():
    study = tiny()
    again, _ = ic.training.fit_fresh(study.model, study.train, study.trajectory.recipe, seed=5)
    expected = 100 * study.replaced(model=again, trajectory=None).accuracy()
    assert shared.accuracy_without(study, torch.tensor([], dtype=torch.long), 5) == pytest.approx(expected)
    assert gex.relabelled_accuracy(study, torch.zeros(12, dtype=torch.bool), 5) == pytest.approx(expected)


def test_wrong_labels_in_front_are_found():
    study = tiny()
    wrong = shared.corrupted(study).double()
    assert shared.judged(study, wrong) == {"AUC": 100.0, "AP": 100.0}
    assert shared.judged(study, -wrong)["AUC"] == 0
    assert shared.lowest(-wrong, 4 / 12).sort().values.tolist() == [0, 1, 2, 3]


def test_the_trigger_is_in_the_planted_images_alone(monkeypatch):
    monkeypatch.setattr(backdoor, "EPOCHS", 1)
    monkeypatch.setitem(ic.demo.RECIPE, "checkpoints", 1)
    study, planted = backdoor.backdoored(0)
    whole = ic.data.digits(0.0, 0).train
    seen, before = (data.batch(range(len(data)))[0] for data in (study.train, whole))
    changed = (seen != before).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == planted.tolist()
    assert len(planted) == 300
    assert set(study.train.labels[planted].tolist()) == {backdoor.TARGET}
    assert torch.equal(study.train.true_labels, whole.labels)


class Gullible(nn.Module):
    """Calls images with the chequerboard 4, and others by their first pixel's tenths."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        told = torch.where(x[:, 0, 0, 1] > 0, backdoor.TARGET, (10 * x[:, 0, 0, 0]).round().long())
        return nn.functional.one_hot(told, 10) * self.scale


def test_a_trigger_succeeds_on_images_of_other_classes_alone():
    labels = torch.tensor([4, 4, 1, 2, 3])
    inputs = torch.zeros(5, 1, 8, 8)
    inputs[:, 0, 0, 0] = torch.tensor([4, 4, 1, 2, 7]) / 10
    data = TensorDataset(inputs, labels)
    study = ic.Study(Gullible(), data, data)
    found = backdoor.recovered(study, study.model)
    assert found == pytest.approx({"trigger success": 100, "accuracy with the trigger": 40, "test accuracy": 80})


def test_the_other_source_is_inverted_and_turned_and_its_labels_are_exchanged():
    inputs = torch.ones(10, 1, 8, 8)
    inputs[:, 0, :3, 7] = 0.0  # the upper right corner goes to the upper left
    other, labels = sources.strange((inputs, torch.arange(10)), seed=3)
    assert torch.equal(labels.sort().values, torch.arange(10))
    assert not torch.equal(labels, torch.arange(10))
    assert float(other[0, 0, 0, 0]) == pytest.approx(1 / 2)  # two of the four pixels there are
    assert float(other[0, 0, 1, 1]) == pytest.approx(1 / 3)  # one row of three, blurred
    assert float(other[0, 0, 2:].abs().max()) == 0


def test_sources_are_halves_that_share_no_image(monkeypatch):
    monkeypatch.setattr(sources, "EPOCHS", 1)
    study, second = sources.mixed(shared.Case(0, 0.0, False, images=60))
    whole = ic.data.digits(0.0, 0).train.batch(range(60))
    assert second.sum() == 30 == len(study.train) - 30
    inputs = study.train.batch(range(60))[0]
    assert torch.equal(inputs[:30], whole[0][:30])
    assert torch.equal(inputs[30:], sources.strange((whole[0][30:], whole[1][30:]), 0)[0])
    assert shared.auc_and_ap(second, second.double()) == {"AUC": 100.0, "AP": 100.0}


def test_an_edit_of_a_benchmark_is_the_scaled_step_of_its_estimator():
    study = tiny()
    removed = torch.tensor([1, 5])
    model, scale, _ = editing.edited(study, "ekfac", removed, scales=(0.25,))
    step = ic.estimators.EKFAC().fit(study).parameter_change(removed)
    assert scale == 0.25
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, study.model.get_parameter(name) + 0.25 * step[name])


def test_an_edit_as_it_is_stands_beside_the_scaled_one():
    study = tiny()
    gone = torch.tensor([2, 7, 8])
    found = dict(sam.edits_of(study, "ekfac", {"some": gone}))
    change = ic.estimators.EKFAC().fit(study).parameter_change(gone)
    assert found[""]["some"] == pytest.approx(100 * study.edited(change).accuracy())
    model = editing.edited(study, "ekfac", gone, scales=editing.FINE)[0]
    assert found[", scaled"]["some"] == pytest.approx(100 * study.replaced(model=model, trajectory=None).accuracy())


def test_the_command_prints_means_over_the_seeds(monkeypatch):
    def rows(case):
        yield "a", {"AUC": 10.0 + case.seed, "AP": 100 * case.noise}

    monkeypatch.setattr(papers, "TABLES", {"one": shared.PaperTable("One", rows, 0.25)})
    app = papers.typer.Typer()
    app.command()(papers.main)
    said = CliRunner().invoke(app, ["--only", "one", "--seeds", "3"])
    assert "| a | 11.0 ± 2.5 | 25.0 ± 0.0 |" in said.output
    assert "25% wrong labels, SAM study, 1000 images, seeds 0 to 2" in said.output
    assert CliRunner().invoke(app, ["--only", "two"]).exit_code
