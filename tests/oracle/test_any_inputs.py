"""Anything with a loss per sample, against plain autograd on single samples that nothing pads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.batches import batches_of
from influence_core.curvature import KFAC, GaussNewton, Hessian, at_outputs
from influence_core.data import SampleSet
from influence_core.errors import InvalidInput, NotSupported
from tests import any_models
from tests.any_models import (
    CLASSES,
    GENERAL,
    LONGEST,
    WORDS,
    Convolved,
    Encoder,
    General,
    gauss_newton,
    rows,
    sentences,
    squared,
)

EXACT = 1e-10
PADDED = [case for case in GENERAL if isinstance(case.data(1, 0), SampleSet)]
CONVEX = [case for case in GENERAL if case.name != "a class for each token"]


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number expected."""
    assert found.shape == expected.shape
    return float((found.double() - expected).abs().max() / expected.abs().max())


def name_of(case: General) -> str:
    return case.name


@pytest.fixture(scope="module", params=GENERAL, ids=name_of)
def known(request: pytest.FixtureRequest) -> tuple[General, ic.Study, Tensor, Tensor]:
    """A case, its study, and the gradients of training and test samples."""
    case = request.param
    study, model = case.study(), case.model()
    return case, study, rows(model, case.loss, study.train), rows(model, case.loss, study.test)


@pytest.mark.parametrize("size", [1, 3, None])
def test_gradients(known: tuple[General, ic.Study, Tensor, Tensor], size: int | None) -> None:
    case, study, train, test = known
    options: dict[str, Any] = {"batch_size": size}
    found = ic.gradients.per_sample_gradients(study.model, study.loss, study.train, **options)
    assert list(found) == [name for name, _ in case.model().named_parameters()]
    assert deviation(torch.cat([g.flatten(1) for g in found.values()], dim=1), train) < EXACT
    norms = ic.gradients.squared_norms(study.model, study.loss, study.train, **options)
    assert deviation(norms, train.square().sum(1)) < EXACT
    products = ic.gradients.inner_products(study.model, study.loss, study.train, study.test, **options)
    assert deviation(products, train @ test.T) < EXACT


def test_the_order_of_samples_changes_nothing(known: tuple[General, ic.Study, Tensor, Tensor]) -> None:
    _, study, train, test = known
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(5))
    shuffled = study.train.subset(order)
    products = ic.gradients.inner_products(study.model, study.loss, shuffled, study.test, batch_size=4)
    assert deviation(products, train[order] @ test.T) < EXACT


def test_losses(known: tuple[General, ic.Study, Tensor, Tensor]) -> None:
    case, study, *_ = known
    expected = [case.loss(*any_models.alone(case.model(), study.train, i)).item() for i in range(len(study.train))]
    for size in (1, 4, 64):
        with batches_of(size):
            assert deviation(study.losses("train"), torch.tensor(expected, dtype=torch.float64)) < EXACT


def test_tracin(known: tuple[General, ic.Study, Tensor, Tensor]) -> None:
    case, study, *_ = known
    expected = 0
    for checkpoint in study.trajectory or ():
        model = case.model()
        model.load_state_dict(checkpoint.state)
        train, test = rows(model, case.loss, study.train), rows(model, case.loss, study.test)
        expected = expected + checkpoint.learning_rate * train @ test.T
    assert deviation(ic.estimators.TracIn().fit(study).influence().values, expected) < EXACT


def test_self_influence_is_a_mislabel_score(known: tuple[General, ic.Study, Tensor, Tensor]) -> None:
    _, study, train, _ = known
    estimator = ic.estimators.TracIn(last=1).fit(study)
    expected = 0.5 * train.square().sum(1)
    assert deviation(estimator.self_influence().values, expected) < EXACT
    assert deviation(estimator.mislabel_scores().values, expected) < EXACT


# --- positions that nothing but padding fills


@pytest.mark.parametrize("case", PADDED, ids=name_of)
def test_padding_leaves_no_gradient(case: General) -> None:
    study = case.study()
    inputs, labels = study.train.batch([0, 2])
    assert inputs["attention_mask"].sum(1).tolist() == [2, 5]  # 3 padded positions of the first
    seen: list[Tensor] = []
    model = case.model()

    def watch(_module: nn.Module, _args: Any, output: Tensor) -> None:
        output.register_hook(seen.append)

    model.get_submodule("words").register_forward_hook(watch)
    outputs = any_models.tensor_of(model(**inputs.kwargs))
    case.loss(outputs, labels).sum().backward()
    gradient = seen[0]
    assert float(gradient[0, 2:].abs().max()) == 0.0
    assert float(gradient[0, :2].abs().min()) > 0.0


@pytest.mark.parametrize("case", PADDED[:-1], ids=name_of)
@pytest.mark.parametrize("draw", ["sampled", "exact"])
def test_kronecker_factors_do_not_see_padding(case: General, draw: Any) -> None:
    study = case.study()
    small, large = (
        KFAC.fit(study.model, study.loss, study.train, draw=draw, batch_size=size) for size in (1, len(study.train))
    )
    assert small.layers == large.layers
    for layer in small.layers:
        for corrected in (False, True):
            expected = small.dense(layer.weight, corrected=corrected)
            assert deviation(large.dense(layer.weight, corrected=corrected), expected) < EXACT


def test_draws_do_not_see_padding() -> None:
    study = GENERAL[3].study(train=30, loss=ic.losses.cross_entropy)
    found = []
    for size in (1, 5, 64):
        with batches_of(size):
            found.append(torch.stack(at_outputs(study.model, study.loss, study.train, "sampled")))
    assert deviation(found[1], found[0]) < EXACT
    assert deviation(found[2], found[0]) < EXACT
    assert len({tuple(row.sign().tolist()) for row in found[0][0]}) > 1  # labels are drawn, and differ


@pytest.mark.parametrize("build", [lambda: Encoder(heeds_mask=False), lambda: WithoutZeros()], ids=["mask", "zeros"])
def test_a_model_that_padding_changes_is_refused(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(InvalidInput, match=r"loss of train sample \d+ is .* alone and .* in a batch that pads it"):
        ic.Study(build().double(), sentences(10, 1), sentences(4, 2), loss=any_models.cross_entropy)


class WithoutZeros(Convolved):
    """Convolutions that look at what padding holds."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids, torch.ones_like(attention_mask))


# --- what all samples share


class Placed(nn.Module):
    """A vector for each place, made of numbers of places that have no axis of samples, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.words, self.head = way, nn.Embedding(WORDS, 6), nn.Linear(6, CLASSES)
        self.places, self.turned = nn.Embedding(LONGEST, 6), nn.Linear(6, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        numbers = torch.arange(input_ids.shape[1])
        mask = attention_mask[:, :, None].double()
        found = self.places(numbers[None] if self.way == "one" else numbers)
        if self.way == "in place":
            found *= 2.0
        found = self.turned(torch.tanh(found))
        if self.way == "as a table":
            found = torch.stack([found[number] for number in numbers])
        if self.way == "with an axis":
            found = found[None].expand(len(input_ids), -1, -1)
        x = torch.tanh(self.words(input_ids) + found)
        return self.head((x * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize(
    ("way", "by_rule"),
    [("none", True), ("one", True), ("in place", True), ("as a table", False), ("with an axis", False)],
)
@pytest.mark.parametrize("size", [1, 2, None])
def test_places_that_all_samples_share(way: str, by_rule: bool, size: int | None) -> None:
    case = General(way, lambda: Placed(way), sentences, any_models.cross_entropy)
    study = case.study()
    expected = rows(case.model(), case.loss, study.train)
    consumer = ic.gradients.Gradients()
    report = ic.gradients.sweep(study.model, study.loss, study.train, [consumer], batch_size=size)
    assert deviation(torch.cat([g.flatten(1) for g in consumer.result().values()], dim=1), expected) < EXACT
    fallen = {"places.weight", "turned.weight", "turned.bias"}
    assert set(report.coverage.fallback) == (set() if by_rule else fallen)


def test_places_are_right_though_the_probed_samples_have_no_gradient() -> None:
    def few(outputs: Tensor, labels: Tensor) -> Tensor:
        return any_models.cross_entropy(outputs, labels) * (labels == 2)

    case = General("few", Encoder, sentences, few)
    study = case.study(train=20)
    labels = study.train.labels.clone()
    labels[[0, 10]] = 0
    data = study.train.with_labels(labels)
    expected = rows(case.model(), few, data)
    assert float(expected[[0, 10]].abs().max()) == 0.0
    assert deviation(ic.gradients.squared_norms(study.model, few, data), expected.square().sum(1)) < EXACT


# --- curvature


@pytest.mark.parametrize("case", GENERAL, ids=name_of)
def test_gauss_newton_products(case: General) -> None:
    study = case.study()
    torch.manual_seed(1)
    expected = gauss_newton(case.model(), case.loss, study.train)
    vectors = torch.randn(3, len(expected)).double()
    for size in (1, 4, None):
        matrix = GaussNewton(study.model, study.loss, study.train, batch_size=size)
        assert deviation(matrix(vectors), vectors @ expected) < EXACT
        assert deviation(matrix.kept()(vectors), vectors @ expected) < EXACT


@pytest.mark.parametrize("case", GENERAL, ids=name_of)
def test_hessian_products(case: General) -> None:
    study, model = case.study(train=5), case.model()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()

    def mean_loss(flat: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        values = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        total = flat.new_zeros(())
        for index in range(len(study.train)):
            inputs, labels = study.train.batch([index])
            args, kwargs = ((inputs,), {}) if isinstance(inputs, Tensor) else (inputs.args, inputs.kwargs)
            with ic.gradients.plain_attention():
                answer = torch.func.functional_call(model, values, args, kwargs)
            total = total + case.loss(any_models.tensor_of(answer), labels).sum()
        return total / len(study.train)

    (gradient,) = torch.autograd.grad(mean_loss(weights), weights, create_graph=True)
    torch.manual_seed(1)
    vector = torch.randn_like(weights)
    (expected,) = torch.autograd.grad(gradient, weights, vector)
    found = Hessian(study.model, study.loss, study.train)(vector[None])[0]
    assert deviation(found, expected) < EXACT


@pytest.mark.parametrize("case", CONVEX, ids=name_of)
def test_conjugate_gradient_is_the_dense_solution(case: General) -> None:
    study, model = case.study(), case.model()
    matrix = gauss_newton(model, case.loss, study.train)
    shift = 0.3 * matrix.diagonal().mean() + study.weight_decay
    train, test = rows(model, case.loss, study.train), rows(model, case.loss, study.test)
    solved = torch.linalg.solve(matrix + shift * torch.eye(len(matrix)).double(), test.T)
    estimator = ic.estimators.ConjugateGradient(damping=0.3, tolerance=1e-14, max_iterations=5000).fit(study)
    assert deviation(estimator.influence().values, train @ solved / len(train)) < 1e-9
    change = estimator.parameter_change(remove=[2], weight={4: 1.5})
    row = torch.cat([change[name].flatten() for name, _ in model.named_parameters()])
    term = (train[2] - 0.5 * train[4]) / len(train)
    assert deviation(row, torch.linalg.solve(matrix + shift * torch.eye(len(matrix)).double(), term)) < 1e-9


# --- linear regression with a penalty, where everything has a closed form


def ridge(inputs: Tensor, labels: Tensor, decay: float, weights: Tensor | None = None) -> Tensor:
    """The minimum of the mean of weights times squared errors over all N, and the penalty: [K, d + 1]."""
    wide = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    factors = torch.ones(len(inputs)).double() if weights is None else weights
    gram = wide.T @ (wide * factors[:, None]) / len(inputs) + decay * torch.eye(wide.shape[1]).double()
    return torch.linalg.solve(gram, wide.T @ (labels * factors[:, None]) / len(inputs)).T


def linear(solution: Tensor) -> nn.Linear:
    model = nn.Linear(solution.shape[1] - 1, len(solution)).double()
    with torch.no_grad():
        model.weight.copy_(solution[:, :-1])
        model.bias.copy_(solution[:, -1])
    return model


DECAY = 0.05


@pytest.fixture(scope="module", params=[1, 2], ids=["one output", "two outputs"])
def fitted(request: pytest.FixtureRequest) -> tuple[ic.Study, Tensor, Tensor]:
    torch.manual_seed(3)
    inputs = torch.randn(25, 4).double()
    labels = inputs @ torch.randn(4, request.param).double() + 0.3 * torch.randn(25, request.param).double()
    data = TensorDataset(inputs, labels)
    test = TensorDataset(*(tensor[:6] + 0.1 for tensor in data.tensors))
    model = linear(ridge(inputs, labels, DECAY))
    return ic.Study(model, data, test, loss=squared, weight_decay=DECAY), inputs, labels


def both(study: ic.Study) -> Tensor:
    return torch.cat([study.model.weight.detach(), study.model.bias.detach()[:, None]], dim=1)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [ic.estimators.FIF, ic.estimators.GIF, ic.estimators.PIF])
def test_an_edit_of_all_weights_is_retraining(fitted: tuple[ic.Study, Tensor, Tensor], kind: Any) -> None:
    study, inputs, labels = fitted
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in study.model.named_parameters()}
    options = {"selector": masks, "scale": 1.0, "tolerance": 1e-14, "max_iterations": 200}
    weights = torch.ones(25).double()
    weights[[0, 5, 7]], weights[9], weights[11] = 0.0, 0.25, 3.0
    change = kind(**options).fit(study).parameter_change(remove=[0, 5, 7], weight={9: 0.25, 11: 3.0})
    expected = ridge(inputs, labels, DECAY, weights)
    assert deviation(expected, both(study)) > 1e-3  # something is learned from what is left out
    if kind is ic.estimators.PIF:  # it keeps to the curvature of the chosen weights alone, which are all
        assert deviation(both(study.edited(change)), expected) < 1e-8
    else:
        assert deviation(both(study.edited(change)), expected) < 1e-9


def test_influence_is_the_derivative_of_retraining(fitted: tuple[ic.Study, Tensor, Tensor]) -> None:
    study, inputs, labels = fitted
    estimator = ic.estimators.ConjugateGradient(damping=0.0, tolerance=1e-14).fit(study)
    step = 1e-5
    for sample in (0, 13):
        losses = []
        for sign in (-1, 1):
            weights = torch.ones(25).double()
            weights[sample] += sign * step
            losses.append(study.replaced(model=linear(ridge(inputs, labels, DECAY, weights))).losses())
        expected = (losses[0] - losses[1]) / (2 * step)  # more weight, less loss: helpful
        assert deviation(estimator.influence().values[sample], expected) < 1e-7


@pytest.mark.parametrize("name", ["ekfac", "conjugategradient", "lastlayer", "hessian"])
def test_methods_that_are_exact_for_one_layer_agree(fitted: tuple[ic.Study, Tensor, Tensor], name: str) -> None:
    study, inputs, labels = fitted
    wide = torch.cat([inputs, torch.ones(25, 1).double()], dim=1)
    gram = wide.T @ wide / 25
    shift = 0.2 * gram.diagonal().mean() + DECAY
    tested = torch.cat([study.test.batch(range(6))[0], torch.ones(6, 1).double()], dim=1)
    residuals = wide @ both(study).T - labels
    others = tested @ both(study).T - study.test.batch(range(6))[1]
    solved = torch.linalg.solve(gram + shift * torch.eye(5).double(), tested.T)
    expected = (wide @ solved) * (residuals @ others.T) / 25
    settings: dict[str, dict[str, Any]] = {
        "ekfac": {"labels": "exact"},
        "hessian": {"curvature": "hessian", "tolerance": 1e-14},
        "conjugategradient": {"tolerance": 1e-14},
    }
    kind = "conjugategradient" if name == "hessian" else name
    estimator = ic.estimators.get(kind, damping=0.2, **settings.get(name, {}))
    assert deviation(estimator.fit(study).influence().values, expected) < 1e-9


def test_leave_one_out_is_retraining(fitted: tuple[ic.Study, Tensor, Tensor]) -> None:
    study, inputs, labels = fitted

    def retrain(_study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
        weights = torch.zeros(25).double()
        weights[kept] = 1.0
        return linear(ridge(inputs, labels, DECAY, weights))

    found = ic.evaluation.leave_one_out(study, None, None, retrain)
    weights = torch.ones(25).double()
    weights[4] = 0.0
    expected = study.replaced(model=linear(ridge(inputs, labels, DECAY, weights))).losses() - study.losses()
    assert deviation(found.values[4], expected) < 1e-9
    predicted = ic.estimators.ConjugateGradient(damping=0.0, tolerance=1e-14).fit(study).influence().values
    assert float(torch.corrcoef(torch.stack([found.values.flatten(), predicted.flatten()]))[0, 1]) > 0.95


# --- what every estimator promises


@pytest.mark.parametrize("case", [GENERAL[0], GENERAL[3], GENERAL[5]], ids=name_of)
@pytest.mark.parametrize("name", ["tracin", "conjugategradient", "ekfac", "randproj", "datainf"])
def test_the_contract(case: General, name: str, tmp_path: Any) -> None:
    study = case.study()
    before = {key: value.clone() for key, value in study.model.state_dict().items()}
    settings = {"conjugategradient": {"damping": 0.3, "tolerance": 1e-13}}.get(name, {})
    found = []
    for size in (1, 3, 64):
        with batches_of(size):
            estimator = ic.estimators.get(name, **settings).fit(study)
            found.append((estimator.influence().values, estimator.self_influence().values))
    for influence, own in found[1:]:
        assert deviation(influence, found[0][0]) < 1e-8
        assert deviation(own, found[0][1]) < 1e-8
    order = torch.tensor([3, 1, 7, 0, 2, 9, 8, 4, 6, 5])
    shuffled = ic.estimators.get(name, **settings).fit(study.replaced(train=study.train.subset(order)))
    assert deviation(shuffled.influence(test=[1, 2]).values, found[0][0][order][:, 1:3]) < 1e-8
    estimator.save(tmp_path / "fitted.safetensors")
    loaded = ic.estimators.Estimator.load(tmp_path / "fitted.safetensors", study)
    assert torch.equal(loaded.influence().values, found[2][0])
    assert all(torch.equal(value, before[key]) for key, value in study.model.state_dict().items())
    table = estimator.influence().top(0, k=3)
    assert table["score"].tolist() == sorted(found[2][0][:, 0].tolist(), reverse=True)[:3]
    assert table["given_label"].tolist() == [study.train.label_text(i) for i in table["train_id"]]


def test_outputs_that_differ_in_number_are_refused_where_a_matrix_is_needed() -> None:
    study = GENERAL[-1].study()
    with pytest.raises(NotSupported, match="outputs of shapes"):
        study.outputs("train")
    with pytest.raises(NotSupported, match="methods that need no outputs: TracIn"):
        ic.estimators.EKFAC().fit(study)
    assert isinstance(study.train, SampleSet)
    with pytest.raises(NotSupported, match="their shapes differ"):
        _ = study.train.labels
