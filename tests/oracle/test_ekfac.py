"""K-FAC and EK-FAC against the exact Fisher matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from influence_core.curvature import KFAC, Fisher
from influence_core.curvature.inverses import KroneckerInverse
from influence_core.errors import InvalidInput
from influence_core.gradients import per_sample_gradients, squared_norms
from influence_core.losses import cross_entropy
from tests.cases import TiedLinears, Twice
from tests.oracle.curvature_references import relative, squared


def linear_net():
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3, bias=False))


def grouped():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 2, 3, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


VECTORS = {
    "no bias": lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
    "module used twice": lambda: nn.Sequential(Twice(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)),
    "two modules, one weight": lambda: nn.Sequential(TiedLinears(), nn.Tanh(), nn.Linear(4, 3)),
}
IMAGES = {
    "groups and batch norm": grouped,
    "convolution used twice": lambda: nn.Sequential(
        Twice(nn.Conv2d(4, 4, 3, padding=1)), nn.Flatten(), nn.Linear(64, 3)
    ),
}
CASES = [*VECTORS, *IMAGES]


def made(name, count=40):
    torch.manual_seed(0)
    model = {**VECTORS, **IMAGES, "linear": linear_net}[name]().double().eval()
    inputs = torch.randn(count, 4, *((4, 4) if name in IMAGES else ()), dtype=torch.float64)
    return model, TensorDataset(inputs, torch.randint(0, 3, (count,)))


def exact_blocks(kfac, fisher):
    """Weight name -> the layer's blocks of the dense matrix, [G, n, n], in the order of ``KFAC.dense``."""
    dense, begin, places = fisher.dense(), 0, {}
    for name, shape in fisher.shapes.items():
        places[name] = torch.arange(begin, begin + math.prod(shape)).reshape(1, *shape)
        begin += math.prod(shape)
    blocks = {}
    for layer in kfac.layers:
        rows = layer.matrices({name: places[name].double() for name in layer.names})[0].long().flatten(1)
        blocks[layer.weight] = torch.stack([dense[row][:, row] for row in rows])
    return blocks


def test_both_are_exact_for_a_linear_network_and_squared_loss():
    model, data = made("linear")
    kfac = KFAC.fit(model, squared, data, draw="exact")
    blocks = exact_blocks(kfac, Fisher(model, squared, data, draw="exact"))
    assert len(blocks) == 2
    for weight, block in blocks.items():
        assert relative(kfac.dense(weight), block) < 1e-12
        assert relative(kfac.dense(weight, corrected=False), block) < 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("draw", ["exact", "sampled", "empirical"])
def test_ekfac_is_closer_than_kfac(name, draw):
    model, data = made(name)
    kfac = KFAC.fit(model, cross_entropy, data, draw=draw, seed=5)
    blocks = exact_blocks(kfac, Fisher(model, cross_entropy, data, draw=draw, seed=5))
    for weight, block in blocks.items():
        corrected, plain = kfac.dense(weight), kfac.dense(weight, corrected=False)
        for mine, its, true in zip(corrected, plain, block, strict=True):
            assert relative(mine, true) < relative(its, true) - 1e-6
            assert torch.allclose(mine.trace(), true.trace())  # a rotation keeps it; wrong uses or positions do not


def test_factors_are_those_of_the_inputs_and_output_gradients():
    """Written out for two uses of one module; and Q_A' A Q_A is diagonal, which dattri's rows for columns are not."""
    model, data = made("module used twice")
    kfac = KFAC.fit(model, cross_entropy, data, draw="empirical")
    layer, basis = kfac.layers[0], kfac.bases["0.layer.weight"]
    assert layer.bias == "0.layer.bias"
    seen, outs = [], []
    model[0].layer.register_forward_hook(lambda _, args, out: (seen.append(args[0]), outs.append(out))[2:] or None)
    inputs, labels = data.tensors
    losses = cross_entropy(model(inputs), labels).sum()
    deltas = torch.cat(torch.autograd.grad(losses, outs))
    ones = torch.ones(80, 1, dtype=torch.float64)
    a = torch.cat([torch.cat(seen), ones], 1).detach()
    for q, moment in ((basis.inputs[0], a.T @ a / 40), (basis.outputs[0], deltas.T @ deltas / 80)):
        rotated = q.T @ moment @ q
        off = rotated - torch.diag(rotated.diagonal())
        assert off.norm() < 1e-12 * rotated.norm()
        wrong = q @ moment @ q.T
        assert (wrong - torch.diag(wrong.diagonal())).norm() > 0.05 * wrong.norm()
        assert relative(q @ q.T, torch.eye(len(q)).double()) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_inverse(name):
    model, data = made(name)
    kfac = KFAC.fit(model, cross_entropy, data, draw="exact")
    inverse = KroneckerInverse.of(kfac, 0.2, weight_decay=0.05)
    gradients = per_sample_gradients(model, cross_entropy, data)
    solved = inverse.apply(gradients).vectors
    assert set(solved) == {n for n, _ in model.named_parameters()}
    own = torch.zeros(len(data), dtype=torch.float64)
    for layer in kfac.layers:
        assert math.isclose(inverse.damping[layer.weight], 0.2 * float(kfac.bases[layer.weight].corrected.mean()))
        dense = kfac.dense(layer.weight)
        shift = (inverse.damping[layer.weight] + 0.05) * torch.eye(dense.shape[1], dtype=torch.float64)
        rows = layer.matrices(gradients).flatten(2)
        expected = torch.stack([torch.linalg.solve(d + shift, rows[:, g].T).T for g, d in enumerate(dense)], 1)
        assert relative(layer.matrices(solved).flatten(2), expected) < 1e-8
        own += (rows * expected).sum((1, 2))
    for parameter, diagonal in kfac.diagonal.items():
        g = gradients[parameter]
        # the exact Fisher's diagonal, entry by entry
        expected = g / (diagonal + inverse.damping[parameter] + 0.05)
        assert relative(solved[parameter], expected) < 1e-12
        own += (g * expected).flatten(1).sum(1)
    assert relative(squared_norms(model, cross_entropy, data, inverse.metric()), own) < 1e-8
    last = list(gradients)[-1]
    other = KroneckerInverse.of(kfac, 0.4, weight_decay=0.05).apply(gradients).vectors
    assert relative(other[last], solved[last]) > 1e-3


def test_the_diagonal_outside_layers_is_the_fishers():
    model, data = made("groups and batch norm")
    kfac = KFAC.fit(model, cross_entropy, data, draw="exact")
    fisher = Fisher(model, cross_entropy, data, draw="exact", parameters=["1.weight", "1.bias"])
    assert list(kfac.diagonal) == ["1.weight", "1.bias"]
    assert relative(torch.cat(list(kfac.diagonal.values())), fisher.dense().diagonal()) < 1e-12


def test_without_damping_it_is_the_true_inverse():
    model, data = made("linear", count=60)
    kfac = KFAC.fit(model, squared, data, draw="exact", parameters="0")
    block = kfac.dense("0.weight")[0]
    assert torch.linalg.matrix_rank(block) < len(block)  # 3 outputs behind 5 units: 40 % of the block is null
    kfac = KFAC.fit(model, squared, data, draw="exact", parameters="1")
    gradients = per_sample_gradients(model, squared, data, parameters="1")
    back = KroneckerInverse.of(kfac, 0.0).apply(gradients).vectors["1.weight"].flatten(1) @ kfac.dense("1.weight")[0]
    assert relative(back, gradients["1.weight"].flatten(1)) < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_batches_do_not_matter_and_the_seed_does(name):
    model, data = made(name)
    one = KFAC.fit(model, cross_entropy, data, seed=1)
    cut = KFAC.fit(model, cross_entropy, data, seed=1, batch_size=3)
    other = KFAC.fit(model, cross_entropy, data, seed=2)
    for weight in one.bases:
        assert relative(cut.dense(weight), one.dense(weight)) < 1e-10
        assert relative(other.dense(weight), one.dense(weight)) > 1e-3


def test_a_layer_whose_moments_overflow_is_named(monkeypatch):
    from influence_core.curvature import kfac as module

    model, data = made("no bias")
    monkeypatch.setattr(module, "at_outputs", lambda *_: [torch.full((40, 3), 1e200, dtype=torch.float64)])
    with pytest.raises(InvalidInput, match=r"output gradients of layer '0' hold NaN"):
        KFAC.fit(model, cross_entropy, data)
