"""Each sharpness-aware optimiser against its paper's formula written out, step by step in float64."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import influence_core as ic
from influence_core.training import ASAM, FSAM, LPFSGD, SAM, step
from tests.helpers import drawn_batches, images, net, states_equal

RATE, DECAY = 0.1, 0.3


def loss_gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the mean loss alone; moves the running statistics of ``model``."""
    return list(torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), list(model.parameters())))


def elsewhere(model: nn.Module, by: list[Tensor]) -> nn.Module:
    """A copy at other weights: its running statistics go nowhere."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, move in zip(other.parameters(), by, strict=True):
            parameter += move
    return other


def norm(vectors: list[Tensor]) -> float:
    return math.sqrt(sum(float((v * v).sum()) for v in vectors))


class Momentum:
    """SGD with momentum and weight decay, for lists."""

    def __init__(self, model):
        self.velocity = [torch.zeros_like(p) for p in model.parameters()]

    def __call__(self, model, gradients):
        with torch.no_grad():
            for i, (w, g) in enumerate(zip(model.parameters(), gradients, strict=True)):
                self.velocity[i] = 0.9 * self.velocity[i] + g + DECAY * w
                w -= RATE * self.velocity[i]


class Adam:
    """Adam with weight decay in the gradient (Kingma and Ba 2015, Algorithm 1), for lists."""

    def __init__(self, model):
        self.first = [torch.zeros_like(p) for p in model.parameters()]
        self.second = [torch.zeros_like(p) for p in model.parameters()]
        self.t = 0

    def __call__(self, model, gradients):
        self.t += 1
        with torch.no_grad():
            for i, (w, g) in enumerate(zip(model.parameters(), gradients, strict=True)):
                g = g + DECAY * w
                self.first[i] = 0.9 * self.first[i] + 0.1 * g
                self.second[i] = 0.999 * self.second[i] + 0.001 * g * g
                mean, square = self.first[i] / (1 - 0.9**self.t), self.second[i] / (1 - 0.999**self.t)
                w -= RATE * mean / (square.sqrt() + 1e-8)


def torch_base(kind, parameters):
    if kind is Momentum:
        return torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=DECAY)
    return torch.optim.Adam(parameters, lr=RATE, weight_decay=DECAY)


class Literal:
    """The four solvers; what they keep from step to step is in here."""

    def __init__(self, model, descend):
        self.model, self.descend = model, descend(model)
        self.mean: list[Tensor] | None = None
        self.noise = torch.Generator().manual_seed(11)

    def sam(self, x, y):
        g = loss_gradients(self.model, x, y)
        self.descend(self.model, loss_gradients(elsewhere(self.model, [0.3 * v / norm(g) for v in g]), x, y))

    def asam(self, x, y):
        g = loss_gradients(self.model, x, y)
        t = [
            w.detach().abs() + 0.02 if n.endswith("weight") else torch.ones_like(w)
            for n, w in self.model.named_parameters()
        ]
        size = norm([a * v for a, v in zip(t, g, strict=True)])
        ascent = [0.7 * a**2 * v / size for a, v in zip(t, g, strict=True)]
        self.descend(self.model, loss_gradients(elsewhere(self.model, ascent), x, y))

    def fsam(self, x, y):
        g = loss_gradients(self.model, x, y)
        if self.mean is None:
            d, self.mean = g, g
        else:
            d = [v - 0.8 * m for v, m in zip(g, self.mean, strict=True)]
            self.mean = [0.6 * m + 0.4 * v for v, m in zip(g, self.mean, strict=True)]
        self.descend(self.model, loss_gradients(elsewhere(self.model, [0.4 * v / norm(d) for v in d]), x, y))

    def lpf(self, x, y, parts=1):
        start, total = copy.deepcopy(self.model), [0.0] * len(list(self.model.parameters()))
        statistics = None
        for part_x, part_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            noise = []
            for w in start.parameters():
                draw = torch.randn(w.shape, generator=self.noise, dtype=w.dtype)
                if w.dim() > 1:
                    sizes = torch.stack([row.norm() for row in w.detach()])
                    noise.append(torch.stack([0.2 * s * d for s, d in zip(sizes, draw, strict=True)]))
                else:
                    noise.append(0.2 * w.detach().norm() * draw)
            at = elsewhere(start, noise)
            total = [a + g / parts for a, g in zip(total, loss_gradients(at, part_x, part_y), strict=True)]
            statistics = statistics or {k: v.clone() for k, v in at[1].named_buffers()}
        for name, buffer in self.model[1].named_buffers():
            buffer.copy_(statistics[name])
        self.descend(self.model, total)

    def lpf4(self, x, y):
        self.lpf(x, y, parts=4)


OURS = {
    "sam": lambda base, model: SAM(base, rho=0.3),
    "asam": lambda base, model: ASAM(base, model.named_parameters(), rho=0.7, eta=0.02),
    "fsam": lambda base, model: FSAM(base, rho=0.4, sigma=0.8, decay=0.6),
    "lpf": lambda base, model: LPFSGD(base, gamma=0.2, seed=11),
    "lpf4": lambda base, model: LPFSGD(base, gamma=0.2, parts=4, seed=11),
}


@pytest.mark.parametrize("kind", [Momentum, Adam])
@pytest.mark.parametrize("name", OURS)
def test_steps_equal_the_formula(name, kind):
    """Weights, what the base remembers, and BatchNorm's statistics, which move once per step."""
    model = net().train()
    plain = copy.deepcopy(model)
    descend = kind(plain)
    written_out = Literal(copy.deepcopy(model), kind)
    ours = OURS[name](torch_base(kind, model.parameters()), model)
    for inputs, labels in itertools.islice(drawn_batches(images(), 8, seed=4), 6):
        step(model, ours, ic.losses.cross_entropy, inputs, labels)
        getattr(written_out, name)(inputs, labels)
        descend(plain, loss_gradients(plain, inputs, labels))
        assert states_equal(model, written_out.model, 1e-12)
    assert int(model[1].num_batches_tracked) == int(net()[1].num_batches_tracked) + 6
    assert not states_equal(model, plain, 1e-3)


@pytest.mark.parametrize("name", ["sam", "asam", "fsam"])
def test_weight_decay_takes_no_part_in_the_ascent(name):
    """The perturbed weights of a first step are the same whatever the decay."""
    inputs, labels = images().batch(range(8))
    seen = []
    for decay in (0.0, 10.0):
        model = net().train()
        ours = OURS[name](torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay), model)

        def gradients(frozen, model=model):
            nn.functional.cross_entropy(model(inputs), labels).backward()
            if frozen:
                seen.append([p.detach().clone() for p in model.parameters()])

        ours.step(gradients)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert not torch.equal(seen[0][0], net()[0].weight)


def test_friendly_sam_without_sigma_is_sam():
    states = []
    for made in (lambda base: SAM(base, 0.2), lambda base: FSAM(base, 0.2, sigma=0.0)):
        model = net().train()
        ours = made(torch.optim.SGD(model.parameters(), lr=0.1))
        for inputs, labels in itertools.islice(drawn_batches(images(), 8, seed=4), 3):
            step(model, ours, ic.losses.cross_entropy, inputs, labels)
        states.append(model)
    assert states_equal(*states)


def test_adaptive_sharpness_does_not_see_the_scale_of_a_layer():
    """w1 times 5 and w2 divided by 5 is the same function; ASAM's worst loss nearby is the same, SAM's is not."""
    torch.manual_seed(0)
    inputs, target = torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)
    worst = {"sam": [], "asam": []}
    for scale in (1.0, 5.0):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False)).double()
        with torch.no_grad():
            model[0].weight *= scale
            model[2].weight /= scale
        for name, found in worst.items():
            base = torch.optim.SGD(model.parameters(), lr=0.0)
            ours = SAM(base, 0.5) if name == "sam" else ASAM(base, model.named_parameters(), 0.5, eta=0.0)

            def gradients(frozen, found=found, model=model):
                value = (model(inputs) - target).square().mean()
                value.backward()
                if frozen:
                    found.append(float(value.detach()))

            ours.step(gradients)
    assert worst["asam"][0] == pytest.approx(worst["asam"][1], rel=1e-9)
    assert worst["sam"][0] != pytest.approx(worst["sam"][1], rel=1e-2)


def test_only_a_parameters_own_name_makes_it_a_weight():
    """A bias in a layer that is called after weights is a bias: its scale is 1."""
    bias = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    found = []

    def gradients(frozen):
        found.append(bias.detach().clone())
        bias.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)

    ASAM(torch.optim.SGD([bias], lr=0.0), [("weighted.bias", bias)], rho=0.5).step(gradients)
    assert torch.allclose(found[1] - found[0], torch.tensor([0.3, 0.4], dtype=torch.float64))
