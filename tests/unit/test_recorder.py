"""Recording one's own training loop: the same trajectory as ``fit`` records."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.losses import cross_entropy
from influence_core.training import SAM, Recorder, fit, step
from influence_core.training.fit import cosine
from tests.helpers import drawn_batches, images, net, states_equal

SIZE, BATCH, STEPS = 22, 7, 3  # steps of an epoch; the last batch of one sample is left out


def trained(model: nn.Module, epochs: int, optimizer: object, **settings):
    """A loop as a user writes it, with the batches and the learning rates of ``fit``."""
    base = getattr(optimizer, "base", optimizer)
    recorder = Recorder(model, optimizer, steps_per_epoch=STEPS, batch_size=BATCH, seed=5, **settings)
    batches = drawn_batches(images(n=SIZE), BATCH, seed=5)
    model.train()
    for i in range(epochs * STEPS):
        base.param_groups[0]["lr"] = 0.1 * cosine(i / (epochs * STEPS))
        step(model, optimizer, cross_entropy, *next(batches))
    return recorder


@pytest.mark.parametrize("rho", [0.0, 0.2])
@pytest.mark.parametrize(("epochs", "checkpoints"), [(6, 3), (4, 4), (8, 2), (1, 1)])
def test_the_trajectory_is_that_of_fit(rho, epochs, checkpoints):
    model = net().train()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    mine = trained(model, epochs, SAM(base, rho) if rho else base, every=STEPS * epochs // checkpoints).trajectory()
    settings = {"epochs": epochs, "batch_size": BATCH, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    theirs = fit(
        net().train(), images(n=SIZE), optimizer="sam" if rho else "sgd", rho=rho or None, checkpoints=checkpoints,
        seed=5, **settings,
    )  # fmt: skip
    assert mine.recipe == theirs.recipe
    assert len(mine) == len(theirs) == checkpoints
    for one, two in zip(mine, theirs, strict=True):
        assert (one.step, one.epoch, one.rho) == (two.step, two.epoch, two.rho)
        assert one.learning_rate == two.learning_rate
        assert one.learning_rate_sum == pytest.approx(two.learning_rate_sum, rel=1e-12)
        assert all(torch.equal(tensor, two.state[name]) for name, tensor in one.state.items())


def counting(steps: int, **settings) -> tuple[Recorder, nn.Module, list[int]]:
    """A weight that is the number of steps, and how many copies were held at most."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    recorder, held = Recorder(model, optimizer, **settings), []
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.weight.sum()).backward()
        optimizer.step()
        held.append(len(recorder._snapshots))
    return recorder, model, held


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 64, 99, 1000, 1023])
@pytest.mark.parametrize("checkpoints", [1, 3, 5])
def test_checkpoints_are_few_even_and_end_at_the_end(steps, checkpoints):
    recorder, _, held = counting(steps, checkpoints=checkpoints)
    found = recorder.trajectory()
    assert max(held) < 2 * checkpoints
    assert len(found) == min(steps, checkpoints)
    assert found[-1].step == steps
    assert [float(c.state["weight"]) for c in found] == [c.step for c in found]
    assert sum(c.learning_rate_sum for c in found) == steps
    gaps = [after.step - before.step for before, after in zip([None, *found], found, strict=False) if before]
    assert all(abs(gap - steps / len(found)) <= steps / len(found) for gap in gaps), gaps


def test_every_so_many_steps_and_the_end():
    recorder, _, _ = counting(10, every=4)
    assert [c.step for c in recorder.trajectory()] == [4, 8, 10]
    recorder, _, _ = counting(9, every="epoch", steps_per_epoch=3)
    assert [(c.step, c.epoch) for c in recorder.trajectory()] == [(3, 1.0), (6, 2.0), (9, 3.0)]
    assert recorder.trajectory().recipe.epochs == 3
    assert {c.epoch for c in counting(4)[0].trajectory()} == {0.0}


def test_it_may_be_asked_in_between_and_closed():
    recorder, model, _ = counting(5, every=2)
    early = recorder.trajectory()
    assert [c.step for c in early] == [2, 4, 5]
    with recorder:
        pass
    recorder._base.step()
    with torch.no_grad():
        model.weight.fill_(99.0)
    assert [c.step for c in recorder.trajectory()] == [2, 4, 5]
    assert [float(c.state["weight"]) for c in early] == [2, 4, 5]


def test_schedulers_and_skipped_steps_are_seen():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    recorder = Recorder(model, optimizer, every=3)
    for i in range(7):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        if i != 3:  # as a gradient scaler leaves out a step
            optimizer.step()
        scheduler.step()
    found = recorder.trajectory()
    assert [c.step for c in found] == [3, 6]
    assert [c.learning_rate for c in found] == [0.25, 0.0625]
    assert [c.learning_rate_sum for c in found] == [0.5 + 0.5 + 0.25, 0.125 + 0.125 + 0.0625]


def test_of_several_groups_the_largest_one_is_taken_and_said():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 9))
    groups = [
        {"params": list(model[0].parameters()), "lr": 0.01, "weight_decay": 0.0},
        {"params": list(model[1].parameters()), "lr": 0.1, "weight_decay": 0.2},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.5)
    recorder = Recorder(model, optimizer)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="the optimizer's groups have different") as said:
        found = recorder.trajectory()
    assert [str(one.message).partition(",")[0] for one in said] == [
        "the optimizer's groups have different learning rates (0.01",
        "the optimizer's groups have different weight decays (0",
    ]
    assert all("that of group 1, which holds the most weights" in str(one.message) for one in said)
    assert {one.filename for one in said} == {__file__}
    assert (found[0].learning_rate, found.recipe.weight_decay, found.recipe.momentum) == (0.1, 0.2, 0.5)


@pytest.mark.parametrize(
    ("make", "name", "options"),
    [
        (lambda p, m: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "sgd with nesterov", {}),
        (lambda p, m: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3), "adamw", {}),
        (
            lambda p, m: ic.training.ASAM(torch.optim.SGD(p, lr=0.1), m.named_parameters(), 0.5, 0.1),
            "asam",
            {"eta": 0.1},
        ),
        (lambda p, m: ic.training.LPFSGD(torch.optim.SGD(p, lr=0.1), 0.2, 2), "lpf", {"gamma": 0.2, "parts": 2}),
    ],
)
def test_the_recipe_says_which_optimizer_it_was(make, name, options):
    model = net().train()
    optimizer = make(model.parameters(), model)
    recorder = Recorder(model, optimizer, steps_per_epoch=2, batch_size=4)
    step(model, optimizer, cross_entropy, *images().batch(range(8)))
    recipe = recorder.trajectory().recipe
    assert (recipe.optimizer, recipe.options) == (name, options)
    assert recipe.weight_decay == (0.3 if name == "adamw" else 0.0)
    if name not in ("asam", "lpf"):
        with pytest.raises(InvalidInput, match=rf"the study was trained with '{name}'; ic\.training\.fit can train"):
            ic.training.train_fresh(model, images(), recipe, seed=0)


def test_a_study_with_what_was_recorded(tmp_path):
    model = ic.models.mlp(16, 3, hidden=4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02)
    trajectory = trained(model, 3, optimizer, every="epoch").trajectory()
    study = ic.Study(model, images(n=SIZE), images(n=5, seed=1), trajectory=trajectory)
    assert study.weight_decay == 0.02
    study.save(tmp_path)
    assert ic.Study.load(tmp_path).fingerprint == study.fingerprint
    assert ic.estimators.TracIn().fit(study).influence([0]).values.shape == (SIZE, 1)


def test_copies_are_apart_from_the_model_and_of_compiled_models_too():
    model = nn.Linear(2, 1)
    wrapped = nn.DataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    recorder = Recorder(wrapped, optimizer)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    (checkpoint,) = recorder.trajectory()
    expected = copy.deepcopy(model)
    with torch.no_grad():
        model.weight.zero_()
    again = ic.models.load_weights(nn.Linear(2, 1), checkpoint.state)
    assert states_equal(again, expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoints": 0}, "checkpoints=0: expected a whole number from 1"),
        ({"every": 0}, "every=0: expected a whole number from 1"),
        ({"every": 1.5}, r"every=1\.5: expected a whole number"),
        ({"steps_per_epoch": -1}, "steps_per_epoch=-1: expected"),
        ({"every": "epoch"}, "every='epoch' needs steps_per_epoch"),
        ({"batch_size": "8"}, "batch_size='8': expected a whole number"),
    ],
)
def test_numbers_that_make_no_sense(settings, said):
    model = nn.Linear(2, 1)
    with pytest.raises(InvalidInput, match=said):
        Recorder(model, torch.optim.SGD(model.parameters(), lr=0.1), **settings)


def test_what_there_is_nothing_to_record_of():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidInput, match="holds none of the model's parameters"):
        Recorder(nn.Linear(2, 1), optimizer)
    with pytest.raises(InvalidInput, match=r"optimizer is a Linear, expected one of torch\.optim"):
        Recorder(model, nn.Linear(2, 1))
    recorder = Recorder(model, optimizer)
    with pytest.raises(InvalidInput, match="made no step since the Recorder was made"):
        recorder.trajectory()
    model(torch.full((1, 2), math.inf)).sum().backward()
    optimizer.step()
    with pytest.raises(InvalidInput, match="weight of the checkpoint at step 1 has 2 of 2 values that are NaN"):
        recorder.trajectory()
