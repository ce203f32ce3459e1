"""What changes a number changes the fingerprint, and nothing else does."""

from __future__ import annotations

import copy
import ctypes
import functools
import math
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.identity import identify
from influence_core.losses import cross_entropy
from tests.helpers import images

ROOT = Path(__file__).parents[2]


@dataclass
class Focal:
    gamma: float = 2.0

    def __call__(self, logits, labels):
        return focal(logits, labels, self.gamma)


def focal(logits, labels, gamma):
    chance = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return -((1 - chance.exp()) ** gamma) * chance


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, logits, labels):
        return self.factor * F.cross_entropy(logits, labels, reduction="none")


class Net(nn.Module):
    """A model of the user's own, with a number that is no weight."""

    def __init__(self, strength=1.0, tied=False):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first if tied else nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)
        self.strength = strength

    def forward(self, inputs):
        return self.last(self.strength * self.second(self.first(inputs.flatten(1))))


def other_net():
    class Net(nn.Module):  # the same name and weights, other code
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.strength = 1.0

        def forward(self, inputs):
            return self.last(self.strength * self.second(self.first(inputs.flatten(1)))).tanh()

    return Net()


FACTOR = 2.0


def of_a_global(logits, labels):
    return FACTOR * cross_entropy(logits, labels)


def layers(*inside):
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *inside, nn.Flatten(), nn.Linear(32, 3))


def strided(stride=1, padding=1):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=stride, padding=padding), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )


def same_weights(model):
    """Equal numbers for equal names, so that the architecture alone tells models apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return model


def made(model=None, **parts):
    torch.manual_seed(0)
    data = {name: images(6, seed, dtype=torch.float32, name=name) for seed, name in enumerate(("train", "test"))}
    return ic.Study(same_weights(layers(nn.ReLU()) if model is None else model), **(data | parts))


def closing(k):
    return lambda logits, labels: k * cross_entropy(logits, labels)


def frozen(model):
    model[0].requires_grad_(False)
    return model


def hooked(model):
    model[0].register_forward_hook(lambda module, given, out: 2 * out)
    return model


DIFFERENT = {
    "the activation": lambda: (made(layers(nn.ReLU())), made(layers(nn.GELU()))),
    "an argument of the activation": lambda: (made(layers(nn.GELU())), made(layers(nn.GELU("tanh")))),
    "the share of a dropout": lambda: (made(layers(nn.Dropout(0.1))), made(layers(nn.Dropout(0.2)))),
    "the stride": lambda: (made(strided()), made(strided(stride=2))),
    "the padding": lambda: (made(strided()), made(strided(padding=0))),
    "the code of a class": lambda: (made(Net()), made(other_net())),
    "a number in a model": lambda: (made(Net(1.0)), made(Net(2.0))),
    "a weight used twice": lambda: (made(Net(tied=True)), made(Net())),
    "a frozen layer": lambda: (made(), made(frozen(layers(nn.ReLU())))),
    "a hook": lambda: (made(), made(hooked(layers(nn.ReLU())))),
    "two lambdas": lambda: (
        made(loss=lambda logits, labels: cross_entropy(logits, labels) ** 2),
        made(loss=lambda logits, labels: cross_entropy(logits, labels).exp()),
    ),
    "a constant of a lambda": lambda: (
        made(loss=lambda logits, labels: 2 * cross_entropy(logits, labels)),
        made(loss=lambda logits, labels: 3 * cross_entropy(logits, labels)),
    ),
    "what a lambda closes over": lambda: (made(loss=closing(2)), made(loss=closing(3))),
    "partials": lambda: tuple(made(loss=functools.partial(focal, gamma=g)) for g in (2.0, 5.0)),
    "objects": lambda: (made(loss=Focal(gamma=2)), made(loss=Focal(gamma=5))),
    "a loss with weights": lambda: (made(loss=Scaled(2.0)), made(loss=Scaled(3.0))),
    "a loss of torch": lambda: tuple(
        made(loss=nn.CrossEntropyLoss(reduction="none", label_smoothing=s)) for s in (0.0, 0.1)
    ),
    "the weight decay": lambda: (made(), made(weight_decay=0.1)),
    "which set is missing": lambda: (made(), made(validation=images(6, 1, dtype=torch.float32))),
}

SAME = {
    "the same thing": lambda: (made(), made()),
    "the name": lambda: (made(name="a"), made(name="b")),
    "a copy": lambda: (made(loss=Focal(3)), copy.deepcopy(made(loss=Focal(3)))),
    "a pickle": lambda: (made(loss=Focal(3)), pickle.loads(pickle.dumps(made(loss=Focal(3))))),
    "the same lambda": lambda: (made(loss=closing(2)), made(loss=closing(2))),
    "equal objects": lambda: (made(loss=Focal(gamma=2.0)), made(loss=Focal())),
    "equal partials": lambda: tuple(made(loss=functools.partial(focal, gamma=g)) for g in (2.0, 2.0)),
    "a model built or called": lambda: tuple(
        made(make(inputs=16, classes=3)) for make in (ic.models.mlp, functools.partial(ic.models.build, "mlp"))
    ),
    "a default that was given": lambda: (made(layers(nn.LeakyReLU())), made(layers(nn.LeakyReLU(0.01)))),
    "training mode before": lambda: (made(layers(nn.Dropout()).train()), made(layers(nn.Dropout()).eval())),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_must_differ(what):
    one, two = DIFFERENT[what]()
    assert one.fingerprint != two.fingerprint
    assert one.unidentified == two.unidentified == []


@pytest.mark.parametrize("what", SAME)
def test_what_must_not_differ(what):
    one, two = SAME[what]()
    assert one.fingerprint == two.fingerprint
    assert one.unidentified == []


def test_a_global_of_a_loss_counts(monkeypatch):
    before = made(loss=of_a_global).fingerprint
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    assert made(loss=of_a_global).fingerprint != before


def everything():
    """Fingerprints that another process has to find again."""
    studies = [study for pair in (*SAME.values(), *DIFFERENT.values()) for study in pair()]
    sets = identify([{"a", "b", "c", "d"}, frozenset("xyz"), {1: object, "k": [1.5, None, ...]}, focal], "it").sha256
    return [study.fingerprint for study in studies] + [sets]


def test_another_process_finds_the_same():
    code = "from tests.unit.test_identity import everything; print(*everything())"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == everything(), ran.stderr


class Unknown:
    """A loss that calls into a library that nobody can look into."""

    def __init__(self):
        self.scale = ctypes.CDLL(None).abs

    def __call__(self, logits, labels):
        return self.scale(3) * cross_entropy(logits, labels)


def test_what_cannot_be_identified_is_said_and_not_saved(tmp_path):
    study = made(loss=Unknown())
    assert [re.sub(r"<.*>", "", s) for s in study.unidentified] == [
        "'scale' of the loss is a ctypes.CDLL.__init__.._FuncPtr, which cannot be told from another of its kind"
    ]
    fitted = ic.estimators.Loss().fit(study)
    scores = fitted.mislabel_scores()
    assert scores.meta["unidentified"] == study.unidentified
    for thing, name in ((study, "the study"), (fitted, "this "), (scores, "these scores")):
        with pytest.raises(NotSupported, match=rf"{name}.*cannot be saved.*'scale' of the loss.*identity = "):
            thing.save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    Unknown.identity = "absolute, version 1"
    try:
        named = made(loss=Unknown())
        assert named.unidentified == []
        assert "unidentified" not in ic.estimators.Loss().fit(named).mislabel_scores().meta
        with pytest.warns(ic.ReopenWarning):
            named.save(tmp_path / "named")
    finally:
        del Unknown.identity


@pytest.mark.parametrize(
    "value", [math.sin, torch.relu, F.relu, nn.Linear, re.compile("a"), functools.lru_cache(focal)]
)
def test_what_has_a_name_or_can_be_written_down_is_known(value):
    assert identify(value, "it").unknown == ()
    assert identify(value, "it") != identify(math.cos, "it")


@pytest.mark.parametrize("value", [open, (n for n in [1])])
def test_open_things_are_not(value, tmp_path):
    if value is open:
        with open(tmp_path / "x", "w") as value:
            assert "cannot be told" in identify(value, "it").unknown[0]
    else:
        assert "cannot be told" in identify(value, "it").unknown[0]


def test_a_registered_architecture_speaks_for_itself(monkeypatch):
    from influence_core.models import architectures

    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))

    @ic.models.register("odd")
    def odd(width=3):
        model, compiled = layers(nn.ReLU()), ctypes.CDLL(None).abs
        model.register_forward_hook(lambda module, given, out: out * compiled(-1))
        return model

    assert made(odd.__wrapped__()).unidentified != []
    assert made(odd()).unidentified == made(ic.models.build("odd")).unidentified == []
    assert made(odd(4)).fingerprint == made(ic.models.build("odd", width=4)).fingerprint
    assert made(ic.models.build("odd")).fingerprint != made(ic.models.build("odd", width=4)).fingerprint


def test_an_exchanged_layer_makes_the_model_ones_own(tmp_path):
    model = ic.models.build("mlp", inputs=16, classes=3, hidden=4)
    model[2] = nn.GELU()
    with pytest.warns(ic.ReopenWarning):
        made(model).save(tmp_path)
    with pytest.raises(InvalidInput, match=r"pass the architecture as ic\.Study\.load"):
        ic.Study.load(tmp_path)
    with pytest.raises(InvalidInput, match=r"is not the one that was saved: its fingerprint .*code of the model"):
        ic.Study.load(tmp_path, model=ic.models.build("mlp", inputs=16, classes=3, hidden=4))
    assert ic.Study.load(tmp_path, model=model).fingerprint == made(model).fingerprint


def test_frozen_layers_stay_frozen(tmp_path):
    before = made(frozen(layers(nn.ReLU())))
    with pytest.warns(ic.ReopenWarning):
        before.save(tmp_path)
    after = ic.Study.load(tmp_path, model=layers(nn.ReLU()))
    assert [p.requires_grad for p in after.model.parameters()] == [False, False, True, True]
    assert after.fingerprint == before.fingerprint


def test_another_loss_than_the_saved_one_is_refused(tmp_path):
    made(ic.models.build("mlp", inputs=16, classes=3), loss=Focal(2.0)).save(tmp_path)
    with pytest.raises(InvalidInput, match="code of the model or of the loss differs"):
        ic.Study.load(tmp_path, loss=Focal(5.0))
    assert ic.Study.load(tmp_path, loss=Focal(2.0)).loss == Focal(2.0)


class Counts(nn.Module):
    """Counts its passes in a buffer, and in an attribute."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.seen = 0

    def forward(self, inputs):
        self.passes += 1
        self.seen += 1
        return self.layer(inputs.flatten(1))


def test_a_pass_that_counts_leaves_the_model_as_it_was():
    study = made(Counts())
    study.outputs("train")
    study.losses()
    assert (int(study.model.passes), study.model.seen) == (0, 0)
    assert study.fingerprint == made(Counts()).fingerprint


class Extra(nn.Module):
    """Has state that is no tensor."""

    def __init__(self, power):
        super().__init__()
        self.layer, self._power = nn.Linear(16, 3), power

    def get_extra_state(self):
        return {"power": self._power}

    def set_extra_state(self, state):
        self._power = state["power"]

    def forward(self, inputs):
        return self.layer(inputs.flatten(1)) ** self._power


def test_extra_state_counts_and_is_not_saved_by_halves(tmp_path):
    assert made(Extra(1)).fingerprint == made(Extra(1)).fingerprint != made(Extra(2)).fingerprint
    with pytest.raises(NotSupported, match="'_extra_state' of the model is a dict, and a file holds tensors only"):
        made(Extra(1)).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def documented(text, inner):
    """A function that returns nothing at times, with docstrings."""
    inside = f"{inner!r}" if inner else ""
    code = f"def f(x):\n {text!r}\n def g(y):\n  {inside}\n  return y\n if x: return None\n return g(x), 'said'\n"
    space = {"__name__": "tests.written"}
    exec(code, space)
    return space["f"]


def test_docstrings_do_not_count():
    one = identify(documented("a", "b"), "it").sha256
    assert identify(documented("other", "b"), "it").sha256 == one
    assert identify(documented("a", "other"), "it").sha256 == one
    assert identify(documented("a", ""), "it").sha256 == one
    assert identify(documented("said", "b"), "it").sha256 == one
    loud = documented("a", "b")
    loud.__code__ = loud.__code__.replace(
        co_consts=tuple("loud" if c == "said" else c for c in loud.__code__.co_consts)
    )
    assert identify(loud, "it").sha256 != one


class Remembers(nn.Module):
    """Keeps what it has seen, and a buffer that is not saved."""

    def __init__(self, power=1):
        super().__init__()
        self.layer, self.power, self.steps = nn.Linear(16, 3), power, 0
        self.register_buffer("cache", None, persistent=False)

    def forward(self, inputs):
        self.last, self.cache = inputs, inputs.mean()
        self.same, self.ready = 0.5, True
        if not hasattr(self, "table"):
            self.table = torch.arange(3)
        self.steps += 1
        return self.layer(inputs.flatten(1)) ** self.power


def test_what_every_pass_makes_does_not_count(tmp_path):
    model = same_weights(Remembers())
    model(torch.ones(1, 1, 4, 4))
    before = made(model)
    assert before.fingerprint == made(Remembers()).fingerprint != made(Remembers(2)).fingerprint
    with pytest.warns(ic.ReopenWarning):
        before.save(tmp_path)
    assert ic.Study.load(tmp_path, model=Remembers()).fingerprint == before.fingerprint


class Mute:
    def __repr__(self):
        raise ValueError("no")


def test_what_cannot_be_gone_through_is_unknown():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert identify(nested, "it").unknown == ("it is nested too deeply to be compared",)
    assert identify({Mute(): 1}, "it").unknown == ()
    assert identify({Mute(): open}, "it") == identify({Mute(): open}, "it")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_what_it_was_made_of():
    model = same_weights(layers(nn.ReLU()))
    assert identify(torch.compile(model, backend="eager"), "it") == identify(model, "it")
    assert identify(torch.compile(layers(nn.GELU()), backend="eager"), "it") != identify(model, "it")


def test_signatures_of_known_classes_are_read_once(monkeypatch):
    from influence_core import known_code

    def read(cls):
        raise AssertionError(f"read again: {cls}")

    first = identify(layers(nn.ReLU()), "it", tensors=False)
    monkeypatch.setattr(known_code.inspect, "signature", read)
    assert identify(layers(nn.ReLU()), "it", tensors=False) == first
