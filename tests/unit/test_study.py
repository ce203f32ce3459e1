from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.training import Checkpoint, Trajectory
from tests.helpers import images, net, states_equal, study


@pytest.fixture(scope="module")
def small():
    return study()


def poisoned():
    model = net()
    with torch.no_grad():
        model[4].bias[1] = float("nan")
    return model


class Asserting(nn.Linear):
    """As the vision transformers of torchvision do."""

    def forward(self, inputs):
        torch._assert(inputs.shape[-1] == 224, "Wrong image width!")
        return super().forward(inputs)


class Batchless(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return self.weight * inputs.sum()


def trajectory_of(model):
    return Trajectory([Checkpoint(1, 1.0, 0.1, 0.1, 0.0, model.state_dict())])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": poisoned()}, r"4\.bias of the model has 1 of 3 values that are NaN"),
        ({"model": Batchless()}, r"gives \(1,\) for one image, expected logits"),
        ({"model": nn.Linear(7, 3)}, r"Linear does not take the training images of shape \(1, 4, 4\)"),
        ({"model": Asserting(4, 3).double()}, "Asserting does not take .* Wrong image width!"),
        ({"model": net(dtype=torch.float32)}, "does not take the training images"),
        ({"model": nn.Flatten()}, "no parameter of the model Flatten requires a gradient"),
        ({"model": net().requires_grad_(False)}, r"requires_grad_\(True\)"),
        ({"train": images(n=0)}, "train set is empty"),
        ({"test": images().subset([])}, "test set is empty"),
        ({"validation": images().subset([])}, "validation set is empty"),
        ({"test": images().with_labels([0, 5] + [0] * 22)}, "test sample 1 has label 5, but the model has 3 outputs"),
        ({"validation": images().with_labels([-1] * 24)}, "validation sample 0 has label -1"),
        ({"test": TensorDataset(torch.rand(2, 1, 4, 5).double(), torch.zeros(2).long())}, r"\(1, 4, 5\).*\(1, 4, 4\)"),
        ({"test": images(dtype=torch.float32)}, "test images have shape .* torch.float32.*torch.float64"),
        ({"train": images(class_names=list("abcd"))}, "train set names 4 classes, but the model has 3 outputs"),
        (
            {"train": images(class_names=list("abc")), "test": images(class_names=list("acb"))},
            "test set has the classes a, c, b, the train set a, b, c",
        ),
        ({"loss": nn.CrossEntropyLoss()}, r"loss gives shape \(\) for two images.*reduction='none'"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"trajectory": trajectory_of(nn.Linear(2, 2))}, "checkpoint at step 1 do not fit the model"),
        ({"train": [1, 2]}, "expected .input tensor, label."),
    ],
)
def test_what_does_not_fit_is_named(parts, message):
    with pytest.raises(InvalidInput, match=message):
        ic.Study(**({"model": net(), "train": images(), "test": images()} | parts))


def test_a_layer_without_running_statistics_is_refused():
    model = net()
    model[1] = nn.BatchNorm2d(3, track_running_stats=False).double()
    with pytest.raises(InvalidInput, match=r"1 \(BatchNorm2d\) keeps no running statistics"):
        ic.Study(model, images(), images())


def test_the_users_model_is_copied_and_left_alone():
    model = net().train()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = copy.deepcopy(model.state_dict())
    made = ic.Study(model, images(), images())
    made.outputs("train")
    assert model.training
    assert not made.model.training
    assert not made.model[1].training
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in made.model.parameters()]
    assert float(model[4].weight.grad.sum()) == model[4].weight.numel()
    assert made.model[4].weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    outputs = made.outputs().clone()
    with torch.no_grad():
        model[4].weight.zero_()
    assert torch.equal(ic.Study.outputs(made.replaced()), outputs)


def test_predictions_losses_and_misclassified(small):
    inputs, labels = small.test.batch(range(9))
    with torch.no_grad():
        logits = small.model(inputs)
    assert torch.allclose(small.outputs(), logits, atol=1e-12)
    assert torch.allclose(small.probabilities().sum(1), torch.ones(9, dtype=torch.float64))
    assert torch.allclose(small.losses(), -logits.log_softmax(1)[torch.arange(9), labels], atol=1e-12)
    wrong = [i for i in range(9) if int(logits[i].argmax()) != int(labels[i])]
    assert small.misclassified().tolist() == wrong
    assert small.accuracy() == pytest.approx(1 - len(wrong) / 9)
    inverted = small.replaced(test=small.test.with_labels((small.predictions() + 1) % 3))
    assert inverted.misclassified().tolist() == list(range(9))
    assert inverted.accuracy() == 0.0


def test_split(small):
    assert small.split("validation") is small.validation
    with pytest.raises(InvalidInput, match="no dataset 'dev'; a study has train, validation, test"):
        small.split("dev")
    with pytest.raises(InvalidInput, match="no validation set"):
        small.replaced(validation=None).split("validation")


def test_edited_adds_and_leaves_the_study_alone(small):
    before = copy.deepcopy(small.model)
    change = {"4.bias": torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)}
    after = small.edited(change)
    assert torch.allclose(after.outputs(), small.outputs() + change["4.bias"], atol=1e-12)
    assert states_equal(small.model, before)
    assert after.fingerprint != small.fingerprint
    assert after.train is small.train
    with pytest.raises(InvalidInput, match=r"'4\.bias' has shape \(2,\), expected: \(3,\)"):
        small.edited({"4.bias": torch.zeros(2)})
    with pytest.raises(InvalidInput, match=r"'head' .* no such parameter"):
        small.edited({"head": torch.zeros(2)})
    with pytest.raises(InvalidInput, match="NaN"):
        small.edited({"4.bias": torch.full((3,), float("nan"))})


def test_at_gives_the_model_of_a_checkpoint(small):
    for checkpoint in small.trajectory:
        model = small.at(checkpoint)
        assert not model.training
        assert all(torch.equal(v, checkpoint.state[k]) for k, v in model.state_dict().items())
    first = small.at(small.trajectory[0])
    assert not states_equal(first, small.model)
    with torch.no_grad():
        first[4].weight.zero_()
    assert float(small.trajectory[0].state["4.weight"].abs().sum()) > 0


def test_fingerprint_changes_with_all_that_scores_depend_on(small):
    pixel = small.test.batch(range(9))[0].clone()
    pixel[8, 0, 3, 3] += 1e-9
    labels = small.train.labels.clone()
    labels[0] = (labels[0] + 1) % 3
    variants = [
        small,
        small.edited({"4.bias": torch.full((3,), 1e-9, dtype=torch.float64)}),
        small.replaced(train=small.train.with_labels(labels)),
        small.replaced(test=TensorDataset(pixel, small.test.labels)),
        small.replaced(validation=None),
        small.replaced(validation=small.validation.subset(range(11))),
        small.replaced(trajectory=None),
        small.replaced(trajectory=small.trajectory[1:]),
        small.replaced(weight_decay=0.5),
        small.replaced(loss=lambda logits, labels: 2 * ic.losses.cross_entropy(logits, labels)),
    ]
    assert len({s.fingerprint for s in variants}) == len(variants)
    assert small.replaced(name="another").fingerprint == small.fingerprint
    model = copy.deepcopy(small.model)
    model[1].running_mean[0] += 1e-9
    assert small.replaced(model=model).fingerprint != small.fingerprint


def test_names_of_classes():
    assert ic.Study(net(), images(), images()).class_names == ["0", "1", "2"]
    named = ic.Study(net(), images(class_names=list("abc")), images())
    assert named.test.class_names == ["a", "b", "c"]


class Foldered(torch.utils.data.Dataset):
    """As torchvision's ImageFolder: a label is the place of its folder."""

    def __init__(self, classes):
        self.classes, self.inputs = classes, images().batch(range(24))[0]

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return self.inputs[index], index % len(self.classes)


@pytest.mark.parametrize("part", [lambda data: data, lambda data: torch.utils.data.Subset(data, [0, 1, 5])])
@pytest.mark.parametrize("classes", [["cat", "fish"], ["fish", "dog", "cat"], ["a", "b"]])
def test_a_part_whose_labels_mean_other_classes_is_refused(part, classes):
    train = Foldered(["cat", "dog", "fish"])
    with pytest.raises(InvalidInput, match=f"test set has the classes {', '.join(classes)}, the train set cat, dog, f"):
        ic.Study(net(), train, part(Foldered(classes)))


@pytest.mark.parametrize("classes", [["cat", "dog"], ["cat", "dog", "fish"], ["n01", "n02", "n03"]])
def test_a_part_with_some_of_the_classes_or_other_words_for_them_has_the_names_of_the_training_set(classes):
    made = ic.Study(net(), Foldered(["cat", "dog", "fish"]), Foldered(classes))
    assert made.test.class_names == ["cat", "dog", "fish"]


def test_half_precision_weights_have_a_fingerprint():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(torch.bfloat16)
    made = ic.Study(model, images(dtype=torch.bfloat16), images(dtype=torch.bfloat16), trajectory=trajectory_of(model))
    assert len(made.fingerprint) == 64


def test_the_bundled_study_is_what_training_makes(demo):
    """Not asserted bit for bit: another processor rounds otherwise, and twelve epochs make weights of it that differ by
    a tenth. Data, recipe and steps are the same, and what the two models say of the test images."""
    again = ic.demo.train_digits()
    for split in ("train", "validation", "test"):
        assert again.split(split).fingerprint == demo.split(split).fingerprint
    assert float((again.predictions() == demo.predictions()).double().mean()) > 0.97
    assert again.accuracy() == pytest.approx(demo.accuracy(), abs=0.01)
    assert float((again.outputs() - demo.outputs()).norm() / demo.outputs().norm()) < 0.1
    assert [c.facts() for c in again.trajectory] == [c.facts() for c in demo.trajectory]
    assert demo.name == again.name


def test_demo_refuses_impossible_noise():
    with pytest.raises(InvalidInput, match=r"noise is 1\.5"):
        ic.demo.digits(noise=1.5)


def test_results_are_the_same_from_any_number_of_threads(small):
    fresh = small.replaced()
    expected = (small.outputs("test"), small.outputs("train"), small.fingerprint)

    def ask(i):
        parts = [lambda: fresh.outputs("test"), lambda: fresh.outputs("train"), lambda: fresh.fingerprint]
        found = {k: parts[k]() for k in sorted(range(3), key=lambda k: (k + i) % 3)}
        return found[0], found[1], found[2]

    with ThreadPoolExecutor(6) as pool:
        for one, two, three in pool.map(ask, range(18)):
            assert torch.equal(one, expected[0])
            assert torch.equal(two, expected[1])
            assert three == expected[2]


def test_a_study_can_be_copied_and_pickled(small):
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), copy.copy(small)):
        assert again.fingerprint == small.fingerprint
        assert torch.equal(again.outputs(), small.outputs())
        assert again.replaced().unidentified == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"weight_decay": "x"}, r"weight_decay is 'x' \(str\), expected a number"),
        ({"weight_decay": 1j}, r"weight_decay is 1j \(complex\), expected a number, 0 for none, or None for that of"),
        ({"loss": None}, r"loss is None \(NoneType\), expected a function"),
        ({"trajectory": [1]}, r"trajectory is \[1\] \(list\), expected a Trajectory"),
        ({"name": 5}, r"name is 5 \(int\), expected a text"),
        ({"model": 3}, r"model is 3 \(int\), expected a torch\.nn\.Module"),
    ],
)
def test_a_part_of_another_kind_is_named(parts, message):
    with pytest.raises(InvalidInput, match=message):
        ic.Study(**({"model": net(), "train": images(), "test": images()} | parts))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_models_that_deepcopy_refuses():
    locked = net()
    locked.lock = threading.Lock()
    with pytest.raises(InvalidInput, match=r"the model Sequential cannot be copied .*a lock or an open file"):
        ic.Study(locked, images(), images())
    old = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(16, 3).double()))
    old(torch.ones(1, 16).double())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(old)
    own = ic.Study(old, images(), images())
    before = own.outputs().clone()
    with torch.no_grad():
        old[1].weight_g.mul_(2)
    assert torch.equal(ic.Study(own.model, images(), images()).outputs(), before)


def decayed(decay: float | None) -> ic.training.Trajectory:
    """One checkpoint, with a recipe that says its weight decay or without one."""
    recipe = None if decay is None else ic.training.Recipe("sgd", 0.1, weight_decay=decay)
    return ic.training.Trajectory([ic.training.Checkpoint(1, 1.0, 0.1, 0.1, 0.0, net().state_dict())], recipe)


def test_the_weight_decay_is_that_of_the_recipe():
    parts = {"model": net(), "train": images(), "test": images(n=5, seed=1)}
    assert ic.Study(**parts).weight_decay == 0.0
    assert ic.Study(**parts, trajectory=decayed(None)).weight_decay == 0.0
    assert ic.Study(**parts, trajectory=decayed(0.25)).weight_decay == 0.25
    same = ic.Study(**parts, trajectory=decayed(0.25), weight_decay=0.25)
    assert same.fingerprint == ic.Study(**parts, trajectory=decayed(0.25)).fingerprint
    assert ic.Study(**parts, trajectory=decayed(None), weight_decay=1).weight_decay == 1.0
    assert type(ic.Study(**parts, weight_decay=1).weight_decay) is float


def test_a_weight_decay_that_is_not_the_recipes_is_warned_of_once(tmp_path):
    parts = {"model": ic.models.mlp(16, 3), "train": images(dtype=torch.float32), "test": images(dtype=torch.float32)}
    state = parts["model"].state_dict()
    trajectory = ic.training.Trajectory(
        [ic.training.Checkpoint(1, 1.0, 0.1, 0.1, 0.0, state)], ic.training.Recipe("sgd", 0.1, weight_decay=0.25)
    )
    message = r"^weight_decay=0\.5 differs from the 0\.25 that the recipe of the trajectory says .*leave it out to take"
    with pytest.warns(UserWarning, match=message) as said:
        study = ic.Study(**parts, trajectory=trajectory, weight_decay=0.5)
    assert [one.filename for one in said] == [__file__]
    assert study.weight_decay == 0.5
    for again in (
        study.replaced(name="x"),
        study.edited({}),
        study.replaced(weight_decay=0.75),
        study.replaced(test=images(5, dtype=torch.float32)),
    ):
        assert again.weight_decay in (0.5, 0.75)
    assert study.replaced(trajectory=None).weight_decay == 0.5
    assert type(study.replaced(weight_decay=2).weight_decay) is float
    study.save(tmp_path)
    assert ic.Study.load(tmp_path).weight_decay == 0.5
