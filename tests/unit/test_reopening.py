"""Studies whose models open by themselves; and those that do not, which say so when they are saved."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.errors import InvalidInput
from influence_core.identity import identify
from influence_core.models import architecture_of, architectures

ROOT = Path(__file__).parents[2]
models = torchvision().models


@pytest.fixture(autouse=True)
def own_register(monkeypatch):
    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))


def study_of(model: nn.Module, side: int = 32, classes: int = 3, **parts) -> ic.Study:
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    data = TensorDataset(torch.rand(3, 3, side, side, generator=generator).to(dtype), torch.arange(3) % classes)
    return ic.Study(model, data, data, **parts)


def reopened(model: nn.Module, folder: Path, **parts) -> ic.models.Architecture:
    """Save and load without help; the model's outputs have to be the same to the last bit."""
    before = study_of(model, **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before.save(folder)
    after = ic.Study.load(folder)
    assert torch.equal(after.outputs(), before.outputs())
    assert after.fingerprint == before.fingerprint
    found = architecture_of(after.model)
    after.save(folder / "again")
    assert ic.Study.load(folder / "again").fingerprint == before.fingerprint
    return found


def head_replaced() -> nn.Module:
    model = models.resnet18()
    model.fc = nn.Linear(512, 3)
    return model


def by_hand() -> nn.Module:
    """The network of 18 layers, put together by the user from torchvision's class."""
    return models.ResNet(models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=3)


@pytest.mark.parametrize(
    ("make", "name", "arguments"),
    [
        (lambda: models.resnet18(num_classes=3), "resnet18", {}),
        (head_replaced, "resnet18", {}),
        (by_hand, "resnet18", {}),
        (lambda: models.squeezenet1_1(num_classes=3, dropout=0.25), "squeezenet1_1", {"dropout": 0.25}),
        (lambda: models.mobilenet_v3_small(num_classes=3), "mobilenet_v3_small", {}),
        (lambda: models.shufflenet_v2_x0_5(num_classes=3), "shufflenet_v2_x0_5", {}),
        (lambda: models.mnasnet0_5(num_classes=3), "mnasnet0_5", {}),  # which wants to know its version
        (
            lambda: models.googlenet(num_classes=3, aux_logits=False, init_weights=False, transform_input=True),
            "googlenet",
            {"aux_logits": False, "init_weights": True, "transform_input": True},
        ),
    ],
)
def test_a_classifier_of_torchvision_opens_by_itself(make, name, arguments, tmp_path):
    assert reopened(make().eval(), tmp_path) == (f"torchvision:{name}", {"num_classes": 3} | arguments)


def test_a_transformer_is_recognised_with_its_image_size():
    with ic.models.skeletons.skeleton():
        model = models.vit_b_16(num_classes=3, image_size=64, attention_dropout=0.1)
    found = ic.models.recognised(model)
    expected = {"num_classes": 3, "image_size": 64, "attention_dropout": 0.1}
    assert found is not None
    assert found.name == "torchvision:vit_b_16"
    assert {name: found.arguments[name] for name in expected} == expected


def changed_stem() -> nn.Module:
    model = models.resnet18(num_classes=3)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return model


def other_groups() -> nn.Module:
    return models.resnet18(num_classes=3, norm_layer=functools.partial(nn.GroupNorm, 1))


@pytest.mark.parametrize("make", [changed_stem, other_groups, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))])
def test_what_does_not_open_is_said_and_saved_all_the_same(make, tmp_path):
    torch.manual_seed(0)
    before = study_of(make().eval())
    with pytest.warns(ic.ReopenWarning, match=r"does not open by itself.*@ic\.models\.register.*plugin=.*model=my_mo"):
        before.save(tmp_path)
    with pytest.raises(InvalidInput, match=r"nobody but its user can build: pass the architecture as ic\.Study\.load"):
        ic.Study.load(tmp_path)
    assert torch.equal(ic.Study.load(tmp_path, model=make()).outputs(), before.outputs())


def test_recognising_draws_no_random_number_and_changes_no_weight():
    model = models.resnet18(num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert ic.models.recognised(model) is not None
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ic.models.small_cnn(3, width=4), ("small_cnn", {"channels": 3, "width": 4})),
        (lambda: ic.models.mlp(3072, classes=3), ("mlp", {"inputs": 3072, "classes": 3})),
        (lambda: ic.models.mlp(3072, 3).double(), ("mlp", {"inputs": 3072, "classes": 3})),
        (lambda: ic.models.build("mlp", inputs=3072, classes=3).bfloat16(), ("mlp", {"inputs": 3072, "classes": 3})),
    ],
)
def test_the_librarys_own_open_when_they_are_called_directly(make, expected, tmp_path):
    assert reopened(make(), tmp_path) == expected


def test_a_registered_class_notes_its_arguments_and_stays_what_it_was(tmp_path):
    class Own(nn.Module):
        def __init__(self, width, sizes=(1,), activation=None, *, scale=1.0):
            super().__init__()
            self.first, self.last = nn.Linear(3072, width), nn.Linear(width, 3)
            self.sizes, self.scale, self.activation = tuple(sizes), scale, activation

        def forward(self, inputs):
            self.seen = inputs
            return self.last(torch.tanh(self.scale * self.first(inputs.flatten(1))))

    before = identify(Own, "it"), identify(Own(3), "it", tensors=False)
    assert ic.models.register("own")(Own) is Own
    assert (identify(Own, "it"), identify(Own(3), "it", tensors=False)) == before
    sizes = [2, 3]
    model = Own(4, sizes, scale=0.5, activation=None)
    sizes.append(4)
    assert architecture_of(model) == ("own", {"width": 4, "sizes": [2, 3], "scale": 0.5, "activation": None})
    assert isinstance(model, Own)
    assert architecture_of(copy.deepcopy(model)) == architecture_of(model)
    assert reopened(model, tmp_path / "fresh") == ("own", {"width": 4, "sizes": [2, 3], "scale": 0.5})
    model(torch.rand(2, 3, 32, 32))  # leaves ``seen`` behind
    assert reopened(model, tmp_path / "used") == ("own", {"width": 4, "sizes": [2, 3], "scale": 0.5})

    class Sub(Own):
        def __init__(self):
            super().__init__(2)

    assert architecture_of(Sub()) is None
    ic.models.register("sub")(Sub)
    assert architecture_of(Sub()) == ("sub", {})
    with pytest.raises(TypeError, match="width"):
        Own()


class Registered(nn.Linear):
    """Has no constructor of its own."""


def test_a_class_without_a_constructor_and_pickling(monkeypatch):
    before = identify(Registered, "it")
    ic.models.register("linear")(Registered)
    try:
        model = Registered(3, 2, bias=False)
        assert architecture_of(model) == ("linear", {"in_features": 3, "out_features": 2, "bias": False})
        assert identify(Registered, "it") == before
        again = pickle.loads(pickle.dumps(model))
        assert type(again) is Registered
        assert torch.equal(again.weight, model.weight)
    finally:
        del Registered.__init__


def test_a_registered_function_keeps_its_name_and_signature(tmp_path):
    def plain(width: int, deep: bool = False) -> nn.Module:
        """Says what it is."""
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.Linear(width, 3))

    net = ic.models.register("net")(plain)
    assert (net.__name__, net.__doc__, net.__module__) == ("plain", "Says what it is.", __name__)
    assert identify(net, "it") == identify(plain, "it")
    assert reopened(net(5, deep=True), tmp_path) == ("net", {"width": 5, "deep": True})
    assert architecture_of(plain(5)) is None


def test_the_outer_of_two_registered_builders_is_the_one_that_counts():
    @ic.models.register("outer")
    def outer(classes):
        return ic.models.mlp(12, classes)

    assert architecture_of(outer(4)) == ("outer", {"classes": 4})
    assert architecture_of(ic.models.build("outer", classes=4)) == ("outer", {"classes": 4})


@pytest.mark.parametrize(
    "call", [lambda f: f(nn.ReLU()), lambda f: f(torch.ones(2)), lambda f: f(0, 1, 2), lambda f: f(a=[nn.ReLU()])]
)
def test_a_call_that_cannot_be_written_down_is_not_noted(call):
    @ic.models.register("odd")
    def odd(a, *more):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    assert architecture_of(call(odd)) is None


def test_arguments_that_are_no_numbers_are_warned_of(tmp_path):
    @ic.models.register("acts")
    def acts(activation=nn.ReLU):
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), activation(), nn.Linear(8, 3))

    assert architecture_of(acts(nn.Tanh)) == ("acts", {"activation": nn.Tanh})
    with pytest.warns(ic.ReopenWarning, match="does not open by itself"):
        study_of(acts(nn.Tanh)).save(tmp_path)
    assert reopened(acts(), tmp_path / "plain") == ("acts", {})


def test_a_model_with_an_attribute_called_architecture_is_left_alone():
    @ic.models.register("named")
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.architecture = nn.Linear(3, 2)

    model = Named()
    assert isinstance(model.architecture, nn.Linear)
    assert architecture_of(model) == ("named", {})


def timm_like() -> types.ModuleType:
    """A package with the two functions of timm that are used, and a model that says where it is from."""
    module = types.ModuleType("timm")

    class TimmNet(nn.Module):
        def __init__(self, num_classes=1000, in_chans=3):
            super().__init__()
            self.conv, self.num_classes = nn.Conv2d(in_chans, 4, 3), num_classes
            self.head = nn.Linear(4, num_classes)
            self.pretrained_cfg = {"architecture": "tiny"}

        def forward(self, inputs):
            return self.head(self.conv(inputs).mean((2, 3)))

    TimmNet.__module__ = "timm.models.tiny"
    module.list_models = lambda: ["tiny"]
    module.create_model = lambda name, pretrained, **arguments: TimmNet(**arguments)
    module.TimmNet = TimmNet
    return module


def test_a_model_of_timm_opens_where_timm_is_installed(monkeypatch, tmp_path):
    fake = timm_like()
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert reopened(fake.TimmNet(3), tmp_path) == ("timm:tiny", {"num_classes": 3})
    with pytest.raises(InvalidInput, match=r"no model 'large'; timm\.list_models\(\) names them"):
        ic.models.build("timm:large")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidInput, match=r"'timm:tiny' needs the package timm.*pip install timm"):
        ic.Study.load(tmp_path)


def test_timm_is_not_imported_unless_it_is_asked_for(tmp_path):
    code = (
        "import sys, influence_core as ic; from torch import nn\n"
        "ic.models.recognised(nn.Linear(2, 2)); print('timm' in sys.modules, 'torchvision' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
