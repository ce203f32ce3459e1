"""The arithmetic behind PAPERS.md, against closed forms, loops and what the estimators themselves say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import influence_core as ic
from influence_core.applications import soft_cross_entropy, soft_labels
from tests.benchmarks import papers
from tests.benchmarks.paper_tables import fvm, gex, gif, shared


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
    monkeypatch.setitem(ic.demo.RECIPE, "epochs", 1)
    monkeypatch.setitem(ic.demo.RECIPE, "checkpoints", 1)
    study, planted = gif.backdoored(0)
    whole = ic.data.digits(0.0, 0).train
    seen, before = (data.batch(range(len(data)))[0] for data in (study.train, whole))
    changed = (seen != before).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == planted.tolist()
    assert len(planted) == 300
    assert set(study.train.labels[planted].tolist()) == {gif.TARGET}
    assert torch.equal(study.train.true_labels, whole.labels)


def test_the_command_prints_means_over_the_seeds(monkeypatch):
    def rows(case):
        yield "a", {"AUC": 10.0 + case.seed, "AP": 100 * case.noise}

    monkeypatch.setattr(papers, "TABLES", {"one": shared.PaperTable("One", rows, 0.25)})
    app = papers.typer.Typer()
    app.command()(papers.main)
    said = CliRunner().invoke(app, ["--only", "one", "--seeds", "3"])
    assert "| a | 11.0 ± 2.5 | 25.0 ± 0.0 |" in said.output
    assert "25% wrong labels, SAM study, seeds 0 to 2" in said.output
    assert CliRunner().invoke(app, ["--only", "two"]).exit_code
