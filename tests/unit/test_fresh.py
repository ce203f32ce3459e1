"""New weights for an old model, and training again by its recipe."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.models import architectures
from influence_core.training import Recipe, Sharpness, fit, reinitialised, train_fresh
from tests.helpers import LiteralSGD, drawn_batches, images, net, states_equal


class Scaled(nn.Module):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), 2.0))
        self.inner = nn.Linear(size, size)


class Resettable(Scaled):
    def reset_parameters(self):
        nn.init.normal_(self.scale)


def test_new_weights_and_nothing_else():
    model = net()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    fresh = reinitialised(model, 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert states_equal(model, before)
    torch.manual_seed(8)
    assert states_equal(reinitialised(model.train(), 3), fresh)
    for name, tensor in fresh.named_parameters():
        constant = name.startswith("1.")  # batch normalisation starts from ones and zeros
        assert torch.equal(tensor, dict(reinitialised(model, 4).named_parameters())[name]) == constant
        assert tensor.dtype == torch.float64
        assert constant or not torch.equal(tensor, model.get_parameter(name))
    assert torch.equal(fresh[1].running_mean, torch.zeros(3))
    assert torch.equal(fresh[1].running_var, torch.ones(3))
    assert not fresh.training
    assert reinitialised(model, 3).training


def test_a_built_model_is_built_again(monkeypatch):
    monkeypatch.setitem(architectures._BUILDERS, "scaled", Scaled)
    model = ic.models.build("scaled", size=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        again = ic.models.build("scaled", size=4)
    assert not states_equal(model, again)
    with torch.no_grad():
        model.scale.zero_()
    assert states_equal(reinitialised(model.double(), 5), again.double())
    model.inner = nn.Linear(4, 2)  # no longer what was built, and its scale does not say how it is drawn
    with pytest.raises(NotSupported, match="the model is a Scaled with the parameter 'scale'"):
        reinitialised(model, 5)


def test_modules_draw_their_own_weights():
    with pytest.raises(NotSupported, match=r"1 is a Scaled with the parameter 'scale'.*reset_parameters"):
        reinitialised(nn.Sequential(nn.Linear(3, 3), Scaled()), 0)
    assert not torch.equal(reinitialised(Resettable(), 0).scale, Resettable().scale)
    frozen = Scaled()
    frozen.scale.requires_grad_(False)
    assert torch.equal(reinitialised(frozen, 0).scale, frozen.scale)
    attention = nn.MultiheadAttention(4, 2)
    nn.init.ones_(attention.out_proj.bias)
    fresh = reinitialised(attention, 0)
    assert not torch.equal(fresh.in_proj_weight, attention.in_proj_weight)
    assert not fresh.out_proj.bias.any()  # attention's own start, not that of a linear layer


@pytest.mark.parametrize("built", [True, False])
def test_frozen_parameters_stay(built):
    model = ic.models.build("small_cnn", width=2) if built else net().float()
    norm = model[1]
    norm.running_mean.fill_(0.7)
    for parameter in [*model[0].parameters(), *norm.parameters()]:
        parameter.requires_grad_(False)
    fresh = reinitialised(model, 1)
    assert torch.equal(fresh[0].weight, model[0].weight)
    assert torch.equal(fresh[1].running_mean, norm.running_mean)
    assert not torch.equal(fresh[-1].weight, model[-1].weight)
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in model.parameters()]


def test_training_again_follows_the_recipe():
    data = images(n=22, noise=0.2)
    recipe = Recipe("sam", 0.2, momentum=0.5, weight_decay=0.03, rho=0.1, batch_size=7, epochs=6, seed=77)
    model = net()
    literal = reinitialised(model, 4).train()
    written_out = LiteralSGD(literal, momentum=0.5, weight_decay=0.03, rho=0.1)
    batches = drawn_batches(data, 7, seed=4)
    for i in range(6):
        written_out.step(*next(batches), 0.2 * (1 + math.cos(math.pi * i / 6)) / 2)
    trained = train_fresh(model, data, recipe, seed=4, epochs=2)
    assert states_equal(trained, literal.eval(), 1e-12)
    assert not trained.training
    assert states_equal(model, net())
    longer = reinitialised(model, 4)
    fit(longer, data, **(recipe.facts() | {"seed": 4, "checkpoints": 1}))
    assert states_equal(train_fresh(model, data, recipe, seed=4), longer)


def test_every_part_of_a_recipe_is_an_argument_of_fit():
    arguments = set(inspect.signature(fit).parameters)
    assert {f.name for f in dataclasses.fields(Recipe)} - {"options"} <= arguments
    for solver in ("sam", "asam", "fsam", "lpf"):
        assert set(Sharpness(solver).options()) <= arguments


def test_options_of_the_optimiser_are_part_of_training_again():
    data = images(24, seed=1)
    recipe = fit(net(), data, optimizer="asam", epochs=2, batch_size=8, checkpoints=1, eta=0.5).recipe
    assert recipe.options == {"eta": 0.5}
    again = train_fresh(net(), data, recipe, seed=3)
    literal = reinitialised(net(), 3)
    fit(literal, data, optimizer="asam", epochs=2, batch_size=8, checkpoints=1, eta=0.5, seed=3)
    assert states_equal(again, literal)
    other = train_fresh(net(), data, dataclasses.replace(recipe, options={"eta": 0.01}), seed=3)
    assert not states_equal(again, other)


def test_an_unknown_optimizer_is_refused():
    recipe = Recipe("adafactor", 0.1, batch_size=8, epochs=2)
    with pytest.raises(InvalidInput, match=r"trained with 'adafactor'.*sgd, sam.*trajectory=None"):
        train_fresh(net(), images(), recipe, seed=0)
