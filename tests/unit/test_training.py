from __future__ import annotations

import copy
import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.losses import cross_entropy
from influence_core.training import (
    ASAM,
    FSAM,
    LPFSGD,
    SAM,
    Checkpoint,
    Recipe,
    Sharpness,
    Trajectory,
    fit,
    frozen_statistics,
    refresh_statistics,
    step,
)
from tests.helpers import LiteralSGD, drawn_batches, images, net, states_equal


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_steps_equal_a_literal_implementation(rho):
    """Weights, momentum, weight decay apart from the ascent, and BatchNorm statistics moved once per step."""
    model = net().train()
    literal = copy.deepcopy(model)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    optimizer = ic.training.SAM(base, rho) if rho else base
    written_out = LiteralSGD(literal, momentum=0.9, weight_decay=0.05, rho=rho)
    batches = list(itertools.islice(drawn_batches(images(), 8, seed=4), 6))
    for i, (inputs, labels) in enumerate(batches):
        for group in base.param_groups:
            group["lr"] = 0.1 / (i + 1)
        with torch.no_grad():
            before = float(nn.functional.cross_entropy(copy.deepcopy(model)(inputs), labels))
        assert step(model, optimizer, ic.losses.cross_entropy, inputs, labels) == pytest.approx(before, abs=1e-12)
        written_out.step(inputs, labels, 0.1 / (i + 1))
        assert states_equal(model, literal, 1e-12)
    assert int(model[1].num_batches_tracked) == int(net()[1].num_batches_tracked) + len(batches)


def test_sam_is_not_plain_descent():
    plain, sharp = (
        fit(net().train(), images(), optimizer=o, epochs=1, batch_size=8, checkpoints=1, rho=0.3)
        for o in ("sgd", "sam")
    )
    assert not torch.allclose(plain[0].state["4.weight"], sharp[0].state["4.weight"], atol=1e-6)


@pytest.mark.parametrize("solver", ["sam", "asam", "fsam", "lpf"])
def test_the_weights_come_back_when_the_second_pass_fails(solver):
    model = nn.Linear(2, 2)
    before = copy.deepcopy(model)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Sharpness(solver, rho=1.0, gamma=1.0, parts=2).around(base, model)

    def gradients(frozen, *part):
        if frozen:
            assert not states_equal(model, before, 1e-3)
            raise RuntimeError("out of memory")
        model(torch.ones(1, 2)).sum().backward()

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(gradients)
    assert states_equal(model, before)


def test_parts_that_a_batch_is_too_small_for():
    """Five images make two parts of two and three, weighed by their sizes, however many parts are asked for."""
    inputs, labels = images().batch(range(5))
    model = net().train()
    step(model, LPFSGD(torch.optim.SGD(model.parameters(), lr=0.1), gamma=0.0, parts=8), cross_entropy, inputs, labels)
    literal = net().train()
    losses = torch.cat([cross_entropy(literal(inputs[:2]), labels[:2]), cross_entropy(literal(inputs[2:]), labels[2:])])
    losses.mean().backward()
    expected = [p.detach() - 0.1 * p.grad for p in literal.parameters()]
    assert all(torch.allclose(p, e, atol=1e-12) for p, e in zip(model.parameters(), expected, strict=True))


def test_the_noise_of_lpf_is_its_own():
    """Two with one seed draw the same noise, another seed another, and torch's global generator is not asked."""
    drawn = []
    for seed in (0, 0, 1):
        model = net().train()
        torch.manual_seed(len(drawn))
        expected = torch.rand(1)
        torch.manual_seed(len(drawn))
        optimizer = LPFSGD(torch.optim.SGD(model.parameters(), lr=0.1), gamma=0.5, seed=seed)
        step(model, optimizer, cross_entropy, *images().batch(range(8)))
        assert torch.equal(torch.rand(1), expected)
        drawn.append(model)
    assert states_equal(drawn[0], drawn[1])
    assert not states_equal(drawn[0], drawn[2], 1e-6)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0, "solver": "lpf"}, {"rho": 0.0, "solver": "fsam"}])
def test_without_radius_or_noise_the_base_is_left(options):
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    assert Sharpness(**({"rho": 0.0} | options)).around(base, model) is base


@pytest.mark.parametrize(("solver", "kind", "rho"), [("sam", SAM, 0.05), ("asam", ASAM, 0.5), ("fsam", FSAM, 0.2)])
def test_each_solver_has_its_own_radius(solver, kind, rho):
    model = net()
    optimizer = Sharpness(solver).around(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert type(optimizer) is kind
    assert optimizer.rho == rho == Sharpness(solver).radius
    assert Sharpness(solver, 0.3).around(torch.optim.SGD(model.parameters(), lr=0.1), model).rho == 0.3


def test_a_zero_gradient_gives_no_ascent():
    ascent = ic.training.perturbation([torch.zeros(3), torch.zeros(2, 2)], 0.5)
    assert all(torch.equal(a, torch.zeros_like(a)) for a in ascent)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)])
@pytest.mark.parametrize("training", [True, False])
def test_frozen_statistics_change_no_output(layer, training):
    torch.manual_seed(0)
    inputs = torch.randn(5, 3, 4, 4) * 3 + 1
    layer = copy.deepcopy(layer)
    layer(inputs)
    layer.train(training)
    expected = copy.deepcopy(layer)(inputs)
    before = copy.deepcopy(layer.state_dict())
    with frozen_statistics(layer):
        assert torch.equal(layer(inputs), expected)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_refreshed_statistics_are_the_plain_average_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    model[0].momentum, model[1].p = 0.2, 0.5
    batches = [torch.randn(n, 3, dtype=torch.float64) * n + n for n in (4, 7, 2)]
    refresh_statistics(model.train(), batches)
    assert torch.allclose(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), rtol=1e-12)
    assert torch.allclose(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0), rtol=1e-12)
    with torch.no_grad():
        hidden = [model[2]((b - b.mean(0)) / (b.var(0, unbiased=False) + model[0].eps).sqrt()) for b in batches]
    assert torch.allclose(model[3].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0), atol=1e-12)
    assert model.training
    assert model[1].training
    assert (model[0].momentum, model[3].momentum) == (0.2, 0.1)
    with pytest.raises(InvalidInput, match="at least one"):
        refresh_statistics(model, [])


def fitted(**changes):
    settings = {"epochs": 6, "batch_size": 7, "learning_rate": 0.1, "checkpoints": 3, "optimizer": "sam", "seed": 5}
    model = net()
    return model, fit(model, images(n=22), **(settings | changes))


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_fit_equals_a_literal_loop(optimizer):
    model, trajectory = fitted(optimizer=optimizer, momentum=0.8, weight_decay=0.01, rho=0.1)
    literal = net().train()
    written_out = LiteralSGD(literal, 0.8, 0.01, 0.1 if optimizer == "sam" else 0.0)
    batches = drawn_batches(images(n=22), 7, seed=5)  # 7 + 7 + 7, the one left over is dropped
    for i in range(18):
        written_out.step(*next(batches), 0.1 * (1 + math.cos(math.pi * i / 18)) / 2)
    assert states_equal(model, literal, 1e-12)
    assert not model.training
    assert all(torch.equal(v, trajectory[-1].state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("optimizer", "given", "radius", "options"),
    [
        ("asam", {"eta": 0.03}, 0.5, {"eta": 0.03}),
        ("fsam", {"rho": 0.1, "decay": 0.6}, 0.1, {"sigma": 1.0, "decay": 0.6}),
        ("lpf", {"gamma": 0.05, "parts": 2}, 0.0, {"gamma": 0.05, "parts": 2}),
    ],
)
def test_fit_with_every_solver_keeps_its_state_and_says_which_it_was(optimizer, given, radius, options, tmp_path):
    model, trajectory = fitted(optimizer=optimizer, weight_decay=0.01, **given)
    other = net().train()
    base = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    made = Sharpness(optimizer, **given).around(base, other, seed=5)
    batches = drawn_batches(images(n=22), 7, seed=5)
    for i in range(18):
        base.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * i / 18)) / 2
        step(other, made, cross_entropy, *next(batches))
    assert states_equal(model, other, 1e-12)
    recipe = trajectory.recipe
    assert (recipe.optimizer, recipe.rho, recipe.options) == (optimizer, radius, options)
    assert {c.rho for c in trajectory} == {radius}
    study = ic.Study(model, images(n=22), images(n=9, seed=1), trajectory=trajectory)
    with pytest.warns(ic.ReopenWarning):
        study.save(tmp_path)
    loaded = ic.Study.load(tmp_path, model=net())
    assert loaded.trajectory.recipe == recipe
    assert loaded.trajectory.fingerprint == trajectory.fingerprint
    assert fitted(optimizer=optimizer, **(given | {"weight_decay": 0.02}))[1].fingerprint != trajectory.fingerprint


def test_options_are_part_of_the_fingerprint_only_where_there_are_some():
    one = Trajectory([checkpoint(1)], Recipe("lpf", options={"gamma": 0.1}))
    two = Trajectory([checkpoint(1)], Recipe("lpf", options={"gamma": 0.2}))
    assert one.fingerprint != two.fingerprint
    assert repr(Recipe("sam", rho=0.1)) == (
        "Recipe(optimizer='sam', learning_rate=0.0, momentum=0.0, weight_decay=0.0, rho=0.1, batch_size=0, epochs=0, "
        "seed=0)"
    )
    assert "options" not in Recipe().facts()


def test_checkpoints_carry_steps_and_learning_rates():
    _, trajectory = fitted(rho=0.2)
    rates = [0.1 * (1 + math.cos(math.pi * i / 18)) / 2 for i in range(18)]
    assert [c.step for c in trajectory] == [6, 12, 18]
    assert [c.epoch for c in trajectory] == [2.0, 4.0, 6.0]
    assert [c.learning_rate for c in trajectory] == pytest.approx([rates[5], rates[11], rates[17]])
    sums = [sum(rates[:6]), sum(rates[6:12]), sum(rates[12:])]
    assert [c.learning_rate_sum for c in trajectory] == pytest.approx(sums)
    assert {c.rho for c in trajectory} == {0.2}
    assert len(trajectory.losses) == 6
    assert (trajectory.recipe.optimizer, trajectory.recipe.rho, trajectory.recipe.batch_size) == ("sam", 0.2, 7)


def test_a_checkpoint_is_the_model_of_that_moment():
    early = fitted()[1][0]
    short_model, _ = fitted(checkpoints=6)
    assert not torch.allclose(early.state["4.weight"], short_model.state_dict()["4.weight"], atol=1e-4)
    every = fitted(checkpoints=6)[1]
    assert torch.equal(every[1].state["4.weight"], early.state["4.weight"])


@pytest.mark.parametrize(("epochs", "checkpoints"), [(12, 6), (3, 2), (5, 2), (7, 7), (9, 4), (1, 1)])
def test_the_last_checkpoint_is_the_end_and_none_is_lost(epochs, checkpoints):
    trajectory = fitted(epochs=epochs, checkpoints=checkpoints)[1]
    assert len(trajectory) == checkpoints
    assert trajectory[-1].epoch == epochs


def test_fit_is_deterministic_and_leaves_global_randomness_alone():
    def augment(inputs):
        return inputs + 0.1 * torch.randn_like(inputs)

    torch.manual_seed(1)
    first = fitted(augment=augment)[1]
    torch.manual_seed(1)
    net()  # what ``fitted`` draws itself
    expected = torch.rand(3)
    torch.manual_seed(1)
    second = fitted(augment=augment)[1]
    assert torch.equal(torch.rand(3), expected)
    assert first.fingerprint == second.fingerprint
    assert fitted(augment=augment, seed=6)[1].fingerprint != first.fingerprint
    assert fitted()[1].fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "no optimizer 'adam'; choose one of sgd, sam, asam, fsam, lpf"),
        ({"optimizer": "lpf", "gamma": -1.0}, "gamma=-1.0"),
        ({"optimizer": "lpf", "parts": 0}, "parts=0"),
        ({"optimizer": "asam", "eta": -0.1}, "eta=-0.1"),
        ({"optimizer": "fsam", "decay": 1.0}, "decay=1.0"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"checkpoints": 7}, "checkpoints=7"),
        ({"checkpoints": 0}, "checkpoints=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"momentum": -1.0}, "momentum=-1.0"),
        ({"rho": -0.1}, "rho is -0.1"),
        ({"rho": -0.1, "optimizer": "sgd"}, "rho is -0.1"),
        ({"learning_rate": 1e200}, "the loss is (nan|inf) after epoch [12]: lower learning_rate"),
    ],
)
def test_fit_refuses(changes, message):
    with pytest.raises(InvalidInput, match=message):
        fitted(**changes)


def test_fit_names_a_label_out_of_range_and_an_empty_set():
    with pytest.raises(InvalidInput, match=r"train sample 4 has label 3, but the model has 3 outputs"):
        fit(net(), images().with_labels([0, 1, 2, 0, 3] + [0] * 19), epochs=1, checkpoints=1)
    with pytest.raises(InvalidInput, match="train set is empty"):
        fit(net(), images().subset([]), epochs=1, checkpoints=1)


def checkpoint(at, **state):
    return Checkpoint(at, 1.0, 0.1, 0.1, 0.0, state or {"w": torch.ones(2)})


def test_trajectory_refuses():
    with pytest.raises(InvalidInput, match="at least one"):
        Trajectory([])
    with pytest.raises(InvalidInput, match="step 3 follows the one at step 3"):
        Trajectory([checkpoint(3), checkpoint(3)])
    with pytest.raises(InvalidInput, match="w of the checkpoint at step 2 has 1 of 2 values that are NaN"):
        Trajectory([checkpoint(2, w=torch.tensor([1.0, float("nan")]))])


def test_trajectory_slices_and_fingerprint():
    one, two = checkpoint(1), checkpoint(2, w=torch.tensor([1.0, 1.0 + 1e-7]), b=torch.ones(1, dtype=torch.bfloat16))
    whole = Trajectory([one, two])
    assert [c.step for c in whole[1:]] == [2]
    assert isinstance(whole[:1], Trajectory)
    prints = {whole.fingerprint, whole[:1].fingerprint, whole[1:].fingerprint}
    prints |= {
        Trajectory([one, checkpoint(2)]).fingerprint,
        Trajectory([one, two], ic.training.Recipe("sam")).fingerprint,
    }
    assert len(prints) == 5
    assert Trajectory([checkpoint(1), two]).fingerprint == whole.fingerprint


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_watch_sees_each_batch_before_its_step(optimizer):
    data, seen = images(n=22), []
    settings = {"epochs": 2, "batch_size": 7, "learning_rate": 0.1, "checkpoints": 1, "momentum": 0.0, "seed": 5}
    watched = net().train()
    fit(watched, data, optimizer=optimizer, watch=lambda *batch: seen.append(batch), **settings)
    assert [len(ids) for ids, _, _ in seen] == [7, 7, 7] * 2  # the one left over is dropped
    literal = net().train()
    written_out = LiteralSGD(literal, 0.0, 5e-4, 0.05 if optimizer == "sam" else 0.0)
    batches = drawn_batches(data, 7, seed=5)
    for i, (ids, outputs, labels) in enumerate(seen):
        inputs, drawn = next(batches)
        assert torch.equal(data.batch(ids)[0], inputs)
        assert torch.equal(labels, drawn)
        assert not outputs.requires_grad
        with torch.no_grad():
            assert torch.allclose(outputs, copy.deepcopy(literal)(inputs), atol=1e-12)
        written_out.step(inputs, drawn, 0.1 * (1 + math.cos(math.pi * i / 6)) / 2)
    plain = net().train()
    fit(plain, data, optimizer=optimizer, **settings)
    assert states_equal(watched, plain)
    assert not watched._forward_hooks


@pytest.mark.parametrize("value", [None, "x", -1, 1e30, float("nan"), float("inf"), True, 1j])
@pytest.mark.parametrize("name", ["epoch", "learning_rate", "learning_rate_sum", "rho", "step"])
def test_a_checkpoint_with_a_number_that_is_none_is_named(name, value):
    facts = checkpoint(3).facts() | {name: value}
    with pytest.raises(InvalidInput, match=rf"{name} of the checkpoint at step .* is .*, expected"):
        Checkpoint(**facts, state={})


@pytest.mark.parametrize("value", [None, "x", -1, 1e30, float("nan"), True])
@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay", "rho", "batch_size", "epochs"])
def test_a_recipe_with_a_number_that_is_none_is_named(name, value):
    with pytest.raises(InvalidInput, match=rf"{name} of the recipe is {re.escape(repr(value))}, expected"):
        Recipe(**{name: value})


def test_other_parts_of_a_trajectory_are_checked():
    with pytest.raises(InvalidInput, match="the state of the checkpoint at step 1 has to be a dict of tensors"):
        checkpoint(1, w=3)
    with pytest.raises(InvalidInput, match="a loss of the trajectory is nan"):
        Trajectory([checkpoint(1)], losses=[0.5, float("nan")])
    for parts in ({"optimizer": None}, {"options": [1]}, {"options": {"gamma": float("inf")}}, {"seed": 0.5}):
        with pytest.raises(InvalidInput, match="of the recipe"):
            Recipe(**parts)
    numpy = Checkpoint(np.int64(3), np.float32(1), 0, np.float64(0.25), 0, {})
    assert repr(numpy.facts()) == repr(Checkpoint(3, 1.0, 0.0, 0.25, 0.0, {}).facts())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**70}, r"seed=1180591620717411303424: torch takes seeds from -2\*\*63"),
        ({"seed": 1.5}, r"seed=1\.5: expected a whole number"),
        ({"epochs": 1.5}, r"epochs=1\.5: expected a whole number"),
        ({"batch_size": "8"}, "batch_size='8': expected a whole number"),
        ({"checkpoints": 1.0}, r"checkpoints=1\.0: expected a whole number"),
    ],
)
def test_numbers_of_a_training_are_whole(changes, message):
    with pytest.raises(InvalidInput, match=message):
        fitted(**changes)
    assert fitted(seed=np.int64(5), epochs=np.int32(6))[1].fingerprint == fitted()[1].fingerprint


@pytest.mark.parametrize(
    ("epochs", "kept"), [(1, [1.0]), (3, [1.0, 2.0, 3.0]), (5, [1, 2, 3, 4, 5]), (7, [1, 3, 4, 6, 7])]
)
def test_by_default_there_are_as_many_checkpoints_as_epochs_and_five_at_most(epochs, kept):
    trajectory = fit(net().train(), images(), epochs=epochs, batch_size=8)
    assert [c.epoch for c in trajectory] == kept
    with pytest.raises(
        InvalidInput, match=f"epochs={epochs}, .*checkpoints={epochs + 1}: .*between one checkpoint and"
    ):
        fit(net().train(), images(), epochs=epochs, checkpoints=epochs + 1)
