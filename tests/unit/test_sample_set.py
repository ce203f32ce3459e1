"""Datasets of any kind, and studies of them: what they take, and what they refuse by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset, SampleSet, wrap
from influence_core.errors import InvalidInput, NotSupported, ReopenWarning
from influence_core.inputs import Bundle
from tests.any_models import GENERAL, Answering, General, cross_entropy, mlp, numbers, pad, sentences, squared

REGRESSION, ENCODER, OBJECT = GENERAL[0], GENERAL[3], GENERAL[5]


@pytest.fixture(scope="module")
def regression() -> ic.Study:
    return REGRESSION.study()


@pytest.fixture(scope="module")
def words() -> ic.Study:
    return ENCODER.study(loss=ic.losses.cross_entropy)


# --- bundles


def test_a_bundle_is_sliced_and_moved_like_a_tensor() -> None:
    one, two = torch.arange(6).view(3, 2), torch.rand(3)
    for bundle, names in ((Bundle((one, two)), None), (Bundle({"a": one, "b": two}), ("a", "b"))):
        assert len(bundle) == 3
        assert bundle.names == names
        assert bundle[1:].parts[0].tolist() == [[2, 3], [4, 5]]
        assert bundle[torch.tensor([2, 0])].parts[0].tolist() == [[4, 5], [0, 1]]
        assert [sample.parts[0].tolist() for sample in bundle] == one.tolist()
        moved = bundle.to("cpu", torch.float64)
        assert [part.dtype for part in moved.parts] == [torch.int64, torch.float64]
        for again in (copy.deepcopy(bundle), pickle.loads(pickle.dumps(bundle))):
            assert again.names == names
            assert torch.equal(again.parts[1], two)
    assert torch.equal(Bundle({"a": one, "b": two})["b"], two)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, r"Bundle\(a \(3,\), b \(2,\)\) have no common first axis"),
        ((torch.zeros(3), [1, 2, 3]), "part 1 is a list; expected tensors"),
        ((), "no common first axis"),
    ],
)
def test_what_is_no_bundle_is_named(parts: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Bundle(parts)


# --- what samples may look like

ROW = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("samples", "options", "shapes", "labels"),
    [
        ([(ROW, 0.5), (ROW, 1.5)], {}, [(2, 2)], [0.5, 1.5]),
        ([(ROW, torch.tensor([0.5])), (ROW, torch.tensor([1.5]))], {}, [(2, 2)], [[0.5], [1.5]]),
        ([((ROW, 3), 1), ((ROW, 4), 0)], {}, [(2, 2), (2,)], [1, 0]),
        ([(ROW, 3, 1), (ROW, 4, 0)], {}, [(2, 2), (2,)], [1, 0]),
        ([({"x": ROW}, 1), ({"x": ROW}, 0)], {}, [(2, 2)], [1, 0]),
        ([{"x": ROW, "label": 1}, {"x": ROW, "label": 0}], {}, [(2, 2)], [1, 0]),
        ([{"x": ROW, "y": 1}, {"x": ROW, "y": 0}], {"labels": "y"}, [(2, 2)], [1, 0]),
        ([{"x": ROW}, {"x": ROW}], {"target": lambda inputs: inputs["x"]}, [(2, 2)], [[1.0, 2.0], [1.0, 2.0]]),
        ([ROW, ROW], {"target": lambda inputs: inputs}, [(2, 2)], [[1.0, 2.0], [1.0, 2.0]]),
        ([ROW, ROW], {"labels": torch.tensor([4, 5])}, [(2, 2)], [4, 5]),
        ([(ROW, 1), (ROW, 0)], {"labels": torch.tensor([4, 5])}, [(2, 2)], [4, 5]),
        (TensorDataset(torch.zeros(2, 2), torch.zeros(2, 3), torch.tensor([7, 8])), {}, [(2, 2), (2, 3)], [7, 8]),
        (
            [np.zeros(2), np.ones(2)],
            {"collate": lambda s: (torch.tensor(np.stack(s)), [3 + int(x[0]) for x in s])},
            [(2, 2)],
            [3, 4],
        ),
    ],
)
def test_samples_are_read(samples: Any, options: Any, shapes: list[Any], labels: list[Any]) -> None:
    data = SampleSet(samples, **options)
    inputs, found = data.batch([0, 1])
    parts = inputs.parts if isinstance(inputs, Bundle) else (inputs,)
    assert [tuple(part.shape) for part in parts] == shapes
    assert found.tolist() == labels
    assert data.labels.tolist() == labels
    assert data.subset([1]).labels.tolist() == labels[1:]
    assert data.subset([1]).batch([0])[1].tolist() == labels[1:]
    changed = data.with_labels(torch.tensor(labels) * 2)
    assert changed.batch([1])[1].tolist() == (torch.tensor(labels) * 2)[1:].tolist()
    prints = {data.fingerprint, changed.fingerprint, data.subset([1, 0]).fingerprint}
    assert len(prints) == 2 + (labels[0] != labels[1])
    assert data.subset([0, 1]).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([{"x": ROW}], {}, "have no label .* give labels='name of the input'"),
        ([{"x": ROW}], {"labels": "y"}, "have no 'y' to be the label; they are x"),
        ([{"labels": 1}], {}, "the label 'labels' and no input"),
        ([(ROW, 0.5), (ROW[:1], 0.5)], {}, r"shapes \(1,\) and \(2,\) make no batch: pass collate"),
        ([{"x": ROW, "label": 1}, {"z": ROW, "label": 1}], {}, "other inputs than x, label"),
        ([ROW], {"labels": "y", "target": len}, "both labels= and target="),
        ([ROW], {"labels": torch.zeros(2)}, "1 samples but 2 labels"),
        ([ROW], {"true_labels": torch.zeros(2), "target": len}, "1 samples but 2 true labels"),
        (iter([ROW]), {}, "map-style dataset"),
        ([ROW, ROW], {"collate": lambda samples: (torch.stack(samples)[:1], torch.zeros(2))}, "1 inputs and 2 labels"),
        ([("text", 1)], {"collate": lambda samples: ([s[0] for s in samples], [1] * len(samples))}, "part 0 is a str"),
    ],
)
def test_samples_that_cannot_be_read_are_named(samples: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SampleSet(samples, **options).batch(range(2 if len(samples) > 1 else 1))


def test_a_set_that_pads_is_known_by_its_samples_alone() -> None:
    data = sentences(10, 1)
    one, two = data.batch([0])[0], data.batch([0, 2])[0]
    assert (one["input_ids"].shape, two["input_ids"].shape) == ((1, 2), (2, 5))
    assert data[0][0]["input_ids"].tolist() == one["input_ids"][0].tolist()
    assert data.sample_sha256(0) == data.subset([0]).sample_sha256(0) != data.sample_sha256(2)
    assert data.fingerprint == sentences(10, 1).fingerprint != sentences(10, 2).fingerprint


def test_not_finite_and_not_repeatable() -> None:
    bad = SampleSet([((ROW, 1), 0.5), ((ROW * float("nan"), 1), 0.5)], name="train")
    with pytest.raises(InvalidInput, match="train image 1 has values that are NaN"):
        bad.check_finite()

    class Random(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            return {"x": torch.rand(2), "label": 0.5}

    with pytest.raises(InvalidInput, match="sample 0 is not the same when it is read twice"):
        SampleSet(Random([1, 2])).check_repeatable()


def test_pictures() -> None:
    with pytest.raises(NotSupported, match="several inputs, of which there is no picture: pass pictures="):
        sentences(3, 1).picture(0)
    shown = SampleSet([(ROW, 0.5)] * 3, pictures=lambda index: Image.new("L", (index + 1, 1))).subset([2])
    assert shown.picture(0).size == (3, 1)


def test_true_labels_of_any_shape() -> None:
    data = SampleSet([(ROW, ROW), (ROW, ROW)], true_labels=torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    assert data.corrupted is not None
    assert data.corrupted.tolist() == [False, True]
    assert data.label_text(0) == "float values of shape (2,)"
    assert SampleSet([(ROW, 0.25)]).label_text(0) == "0.25"


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (TensorDataset(torch.zeros(3, 2), torch.zeros(3).long()), LabelledDataset),
        (TensorDataset(torch.zeros(3, 2), torch.zeros(3)), SampleSet),
        (TensorDataset(torch.zeros(3, 2), torch.zeros(3, 1).long()), SampleSet),
        (TensorDataset(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3).long()), SampleSet),
        ([(torch.zeros(2), 1)], LabelledDataset),
        ([(torch.zeros(2), torch.tensor(1))], LabelledDataset),
        ([(torch.zeros(2), 1, "name")], LabelledDataset),
        ([(torch.zeros(2), 0.5)], SampleSet),
        ([((torch.zeros(2), 1), 1)], SampleSet),
        ([{"x": torch.zeros(2), "labels": 1}], SampleSet),
    ],
)
def test_wrap_chooses(base: Any, kind: type) -> None:
    wrapped = wrap(base, "train")
    assert type(wrapped) is kind
    assert wrapped.name == "train"
    assert wrap(wrapped, "test") is wrapped


# --- studies


def test_a_regression_study(regression: ic.Study) -> None:
    assert (regression.classes, regression.num_outputs) == (None, 1)
    assert regression.outputs().shape == (4, 1)
    edited = regression.edited({"2.bias": torch.ones(1)})
    assert torch.allclose(edited.outputs(), regression.outputs() + 1)
    assert edited.fingerprint != regression.fingerprint == REGRESSION.study().fingerprint
    assert regression.replaced(weight_decay=0.5).fingerprint != regression.fingerprint


def test_a_classifier_of_words_has_classes(words: ic.Study) -> None:
    assert (words.classes, words.num_classes, words.num_outputs) == (3, 3, 3)
    assert words.accuracy() == float((words.predictions() == words.test.labels).double().mean())
    assert ic.evaluation.confusions(words)["count"].sum() == len(words.misclassified())
    assert words.class_names == ["0", "1", "2"]
    estimator = ic.estimators.VM(steps=2, batch_size=2).fit(words)
    table = ic.applications.relabel(words, estimator)
    assert set(table["given_label"]) <= {"0", "1", "2"}
    change = ic.estimators.ConjugateGradient(damping=1.0).fit(words).parameter_change(relabel={1: 2, 3: 0})
    assert set(change) == {name for name, _ in ENCODER.model().named_parameters()}


REFUSED: dict[str, Any] = {
    "num_classes": lambda study: study.num_classes,
    "class_names": lambda study: study.class_names,
    "predictions": lambda study: study.predictions(),
    "probabilities": lambda study: study.probabilities(),
    "accuracy": lambda study: study.accuracy(),
    "misclassified": lambda study: study.misclassified(),
    "num_classes again": lambda study: ic.evaluation.confusions(study),
    "label_influence": lambda study: ic.estimators.VM(steps=1).fit(study).label_influence(),
    "EL2N": lambda study: ic.estimators.EL2N().fit(study),
    "Forgetting": lambda study: ic.estimators.Forgetting().fit(study),
    "Confident learning": lambda study: ic.estimators.ConfidentLearning().fit(study),
    "Deep k-NN": lambda study: ic.estimators.DeepKNN().fit(study),
    "Label contrast": lambda study: ic.estimators.LabelContrast().fit(study),
    "TRAK": lambda study: ic.estimators.TRAK().fit(study),
    "GIF": lambda study: ic.estimators.GIF().fit(study),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_classes_says_so(regression: ic.Study, what: str) -> None:
    name = what.removesuffix(" again")
    expected = rf"^{name} needs class labels; this study's labels are float values of shape \(1,\)$"
    with pytest.raises(NotSupported, match=expected):
        REFUSED[what](regression)


def test_relabel_needs_classes(regression: ic.Study) -> None:
    estimator = ic.estimators.ConjugateGradient(damping=1.0).fit(regression)
    with pytest.raises(NotSupported, match="relabel needs class labels"):
        estimator.parameter_change(relabel={1: 2})


def test_missing_says_the_same_beforehand(regression: ic.Study) -> None:
    missing = {name: ic.estimators.get(name).missing(regression) for name in ic.estimators.available()["name"]}
    assert {name for name, lacks in missing.items() if lacks == ["class labels"]} == {
        "areaundermargin", "calibrated", "confidentlearning", "deepknn", "el2n", "fif", "forgetting", "gif",
        "labelcontrast", "pif", "priormargin", "relationgraph", "trak",
    }  # fmt: skip
    assert ic.estimators.VM().missing(regression, "label_influence") == ["class labels"]
    assert ic.estimators.VM().missing(regression, "influence") == []
    assert ic.estimators.GIF(scale=1.0).missing(regression) == []


def test_every_estimator_that_misses_nothing_answers(regression: ic.Study) -> None:
    answered = set()
    for name in ic.estimators.available()["name"]:
        estimator = ic.estimators.get(name)
        ours = type(estimator).__module__.startswith("influence_core.")  # other tests may have registered their own
        if not ours or estimator.missing(regression):
            continue
        estimator.fit(regression)
        for what in estimator.gives():
            if estimator.missing(regression, what):
                continue
            given: dict[str, Any] = {"influence": {"test": [1]}, "parameter_change": {"remove": [2]}}.get(what, {})
            found = getattr(estimator, what)(**given)
            values = torch.cat([v.flatten() for v in found.values()]) if isinstance(found, dict) else found.values
            assert bool(values.isfinite().all()), (name, what)
            answered.add((name, what))
    assert {("tracin", "influence"), ("ekfac", "self_influence"), ("lastlayer", "influence")} <= answered
    assert {("conjugategradient", "parameter_change"), ("loss", "mislabel_scores"), ("gex", "influence")} <= answered


class Strange(nn.Module):
    """Answers with something that is no tensor."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 1), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.layer(x))


class Wrapped:
    """An answer without logits."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Wrapped, r"answers with a .*Wrapped, in which there is no tensor 'logits': say where the outputs are"),
        (lambda out: {"mean": out, "std": out}, "answers with a dict with 'mean', 'std', in which"),
        (lambda out: (out, out), "answers with a tuple, in which"),
    ],
)
def test_an_answer_without_outputs_is_named(answer: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ic.Study(Strange(answer).double(), numbers(4, 1), numbers(2, 2), loss=squared)


def test_outputs_are_where_the_user_says() -> None:
    torch.manual_seed(0)
    model = Strange(Wrapped).double()
    study = ic.Study(model, numbers(6, 1), numbers(2, 2), loss=squared, output=lambda answer: answer.values)
    inputs, labels = study.test.batch([0, 1])
    assert torch.equal(study.outputs(), model.layer(inputs).detach())
    assert torch.equal(study.replaced().losses(), squared(model.layer(inputs), labels).detach())
    assert isinstance(model(inputs), Wrapped)  # the user's own is as it was
    other = study.replaced(output=lambda answer: answer.values * 2)
    assert torch.equal(other.outputs(), 2 * study.outputs())
    assert other.fingerprint != study.fingerprint
    with pytest.raises(InvalidInput, match="output= gave a Wrapped for one sample, expected a tensor"):
        ic.Study(model, numbers(6, 1), numbers(2, 2), loss=squared, output=lambda answer: answer)


def test_the_names_and_the_class_of_a_model_stay() -> None:
    study, model = OBJECT.study(), OBJECT.model()
    assert type(study.model) is Answering
    assert list(study.model.state_dict()) == list(model.state_dict())
    inputs, _ = study.train.batch([0, 1])
    assert torch.equal(study.model(inputs), study.model(**inputs.kwargs))
    assert torch.equal(pickle.loads(pickle.dumps(study.model))(inputs), study.model(inputs))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": ic.losses.cross_entropy}, r"cross-entropy, the default loss.* float values of shape \(1,\)"),
        ({"loss": nn.MSELoss()}, r"loss gives shape \(\) for two images"),
        ({"loss": lambda outputs, labels: outputs.foo}, "the loss does not take outputs of shape"),
        ({"model": mlp()}, "does not take the training images of shape"),
        ({"test": TensorDataset(torch.zeros(2, 4).double(), torch.zeros(2, 1))}, "label .* torch.float32.*train"),
        ({"test": TensorDataset(torch.zeros(2, 3).double(), torch.zeros(2, 1).double())}, r"\(3,\).*\(4,\)"),
        ({"test": sentences(3, 1)}, "test samples have the inputs input_ids, attention_mask, train samples inputs"),
        ({"train": SampleSet([])}, "train set is empty"),
        ({"train": SampleSet(numbers(5, 1), class_names=["a", "b"])}, "names 2 classes, but its labels are float"),
    ],
)
def test_studies_that_do_not_fit_are_refused(parts: Any, message: str) -> None:
    own = {"model": mlp().double(), "train": numbers(5, 1), "test": numbers(3, 2), "loss": squared}
    with pytest.raises(InvalidInput, match=message):
        ic.Study(**(own | parts))


def test_whole_numbers_that_are_no_classes() -> None:
    def poisson(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs[:, 0].exp() - labels * outputs[:, 0]

    train = SampleSet([(torch.rand(4).double(), i) for i in range(6)])
    study = ic.Study(mlp().double(), train, train, loss=poisson)
    with pytest.raises(NotSupported, match="labels are whole numbers that are no classes of a model with 1 outputs"):
        study.predictions()
    assert ic.estimators.ConjugateGradient(damping=1.0).fit(study).influence([0]).values.shape == (6, 1)


def test_words_need_a_model_that_takes_them() -> None:
    with pytest.raises(InvalidInput, match=r"the training samples, Bundle\(input_ids .*model\(\*\*inputs\)"):
        ic.Study(mlp().double(), sentences(3, 1), sentences(3, 2), loss=cross_entropy)


def test_training_takes_general_data() -> None:
    model, data = OBJECT.model(), sentences(12, 1)
    before = ic.Study(model, data, data).losses().mean()
    trajectory = ic.training.fit(model, data, epochs=8, batch_size=4, learning_rate=0.2, checkpoints=2)
    study = ic.Study(model, data, data, trajectory=trajectory)
    assert float(study.losses().mean()) < 0.9 * float(before)
    assert not isinstance(model(**data.batch([0])[0].kwargs), Tensor)  # it answers with an object as before
    fresh = ic.training.train_fresh(study.model, data, trajectory.recipe, seed=1, epochs=1)
    assert fresh(data.batch([0, 1])[0]).shape == (2, 3)


# --- files


@pytest.mark.parametrize("case", [GENERAL[0], GENERAL[1], GENERAL[2]], ids=lambda case: case.name)
def test_a_general_study_is_saved(case: General, tmp_path: Any) -> None:
    study = case.study()
    with pytest.warns(ReopenWarning):
        study.save(tmp_path)
    loaded = ic.Study.load(tmp_path, model=case.model(1), loss=case.loss)
    assert loaded.fingerprint == study.fingerprint
    assert torch.equal(loaded.losses(), study.losses())
    assert torch.equal(loaded.losses("train"), study.losses("train"))


def test_named_inputs_of_one_length_are_saved(tmp_path: Any) -> None:
    base = [{"input_ids": torch.randint(1, 9, (5,)), "labels": torch.tensor(i % 3)} for i in range(6)]
    data = SampleSet(base, collate=pad, class_names=["a", "b", "c"])
    study = ic.Study(ENCODER.model(), data, data)
    with pytest.warns(ReopenWarning):
        study.save(tmp_path)
    loaded = ic.Study.load(tmp_path, model=ENCODER.model(1))
    assert loaded.fingerprint == study.fingerprint
    assert loaded.class_names == ["a", "b", "c"]
    assert torch.equal(loaded.predictions(), study.predictions())


def test_unequal_lengths_are_not_saved(words: ic.Study, tmp_path: Any) -> None:
    with pytest.raises(NotSupported, match="samples differ in length, and a study file holds tensors of one shape"):
        words.save(tmp_path)
