"""Checks of form: ids, labels on the jar, refusals, and that nothing is changed that belongs to somebody else."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotFitted, NotSupported, StaleResult
from influence_core.estimators import Estimator, all_estimators
from influence_core.estimators.base import GIVES
from influence_core.models import load_tensors
from influence_core.parameters import plain
from influence_core.scores import MEANING, Coverage
from influence_core.study import Study
from influence_core.testing.checks import CHECKS, Subject, check
from influence_core.testing.problems import network_study
from influence_core.testing.tools import assert_same, changed, outcomes, refused, results, snapshot, values

_FACTS = ("estimator", "parameters", "study", "seconds", "fit_seconds", "peak_memory_mib", "residual")


@check()
def declarations(subject: Subject) -> None:
    """The class says what it is, what it needs and gives, and is exempt only where it may be."""
    cls = subject.cls
    for attribute in ("name", "title", "paper", "cost"):
        assert getattr(cls, attribute, ""), f"the class attribute {attribute!r} is missing or empty"
    assert cls.gives(), f"it gives nothing: override one of {', '.join(GIVES.values())}"
    assert cls.by_rows <= set(cls.gives()), f"it gives {sorted(cls.by_rows - set(cls.gives()))} by rows and not at all"
    assert cls.needs <= {"trajectory", "validation"}, f"it needs {sorted(cls.needs)}; known: trajectory, validation"
    for name, reason in cls.exempt.items():
        assert name in CHECKS, f"it is exempt from {name!r}, which is no check; there are {', '.join(CHECKS)}"
        assert CHECKS[name].exemptable, f"no estimator is exempt from {name!r}: {CHECKS[name].promise}"
        assert reason, f"it is exempt from {name!r} without a reason"


@check()
def labels_on_the_jar(subject: Subject) -> None:
    """Scores carry ids, kind, scale, coverage, residual, hyper-parameters and the study's fingerprint."""
    study = network_study()
    estimator = subject.make().fit(study)
    columns = {"influence": (len(study.test),), "label_influence": (study.num_classes,)}
    for method, scores in results(estimator).items():
        expected = (len(study.train), *columns.get(method, ()))
        shape = tuple(scores.values.shape)
        assert shape == expected, f"{method} has shape {shape}, expected {expected}"
        assert scores.kind == method.removesuffix("_scores"), f"{method} is of kind {scores.kind!r}"
        assert scores.kind in MEANING, f"{method} is of unknown kind {scores.kind!r}"
        assert scores.scale in ("nats", "probability", "rank only"), f"{method} has the scale {scores.scale!r}"
        assert torch.equal(scores.train_ids, torch.arange(len(study.train))), f"{method}: train_ids are not 0 to N - 1"
        if method == "influence":
            assert scores.test_ids is not None, "influence has no test_ids"
            assert scores.test_ids.tolist() == list(range(len(study.test))), "test_ids are not 0 to M - 1"
        for fact in _FACTS:
            assert fact in scores.meta, f"{method} has no {fact!r} in meta"
        assert scores.meta["study"] == study.fingerprint, f"{method} has the fingerprint of another study"
        assert scores.meta["parameters"] == plain(estimator.get_params()), f"{method} does not state its parameters"
        residual = scores.meta["residual"]
        assert residual is None or math.isfinite(float(residual)), f"{method} has the residual {residual!r}"
        cover = scores.coverage
        assert isinstance(cover, Coverage), f"{method} has the coverage {cover!r}"
        for share in (cover.parameters, cover.gradient_norm):
            assert 0 < share <= 1 + 1e-9, f"{method} covers {share} of the model, expected a share from 0 to 1"
        assert scores.values.device.type == "cpu", f"{method} is on {scores.values.device}, expected the CPU"
        assert not scores.values.requires_grad, f"{method} still carries a graph of gradients"
        if method == "self_influence":
            low = float(scores.values.min())
            assert low >= -subject.tolerance * float(scores.values.abs().max()), f"a self-influence is negative: {low}"


@check("influence")
def subsets_of_test_images(subject: Subject) -> None:
    """Scores of some test images are the same columns of the scores of all, in the order asked for."""
    estimator = subject.make().fit(network_study())
    whole = estimator.influence().values.double()
    for ids in ([7, 2], [4], torch.tensor([0, 8, 1])):
        part = estimator.influence(test=ids)
        wanted = torch.as_tensor(ids)
        assert part.test_ids is not None, "influence has no test_ids"
        assert part.test_ids.tolist() == wanted.tolist(), f"test_ids are {part.test_ids} for {wanted.tolist()}"
        expected = {"influence": whole[:, wanted]}
        why = f"only test images {wanted.tolist()} were asked for"
        assert_same({"influence": part.values.double()}, expected, subject.tolerance, why)


@check()
def scores_are_copies(subject: Subject) -> None:
    """Overwriting returned scores does not change the next ones."""
    estimator = subject.make().fit(network_study())
    before = {method: v.clone() for method, v in values(estimator).items()}
    for scores in results(estimator).values():
        scores.values.fill_(7.0)
    assert_same(values(estimator), before, 1e-12, "returned scores were overwritten by their owner")


@check()
def study_untouched(subject: Subject) -> None:
    """Weights, buffers, flags, hooks, data, checkpoints and random numbers are as before."""
    study = network_study()
    before = snapshot(study)
    estimator = subject.make().fit(study)
    after_fit = changed(before, snapshot(study))
    assert not after_fit, f"fit changed {', '.join(after_fit[:4])}"
    outcomes(estimator)
    after = changed(before, snapshot(study))
    assert not after, f"scoring changed {', '.join(after[:4])}"


@check()
def parameters_untouched(subject: Subject) -> None:
    """Hyper-parameters are as the constructor got them; what is learned ends in an underscore."""
    fresh, fitted = subject.make(), subject.make()
    fitted.fit(network_study())
    outcomes(fitted)
    assert fitted.get_params() == fresh.get_params(), f"{fresh.get_params()} became {fitted.get_params()}"
    new = [name for name in vars(fitted) if name not in vars(fresh) and not name.endswith("_")]
    assert not new, f"the learned attribute {new[0]!r} does not end in an underscore, so that fit will not forget it"


@check()
def refusals(subject: Subject) -> None:
    """What theory does not give, a missing fit, unknown ids and a lacking study are refused by name."""
    study, cls = network_study(), subject.cls
    estimator = subject.make().fit(study)
    for method in GIVES:
        if method in cls.gives():
            message = refused(_call(subject.make(), method), NotFitted, f"{method} before fit")
            assert "fit" in message, f"{method} before fit does not say what to do: {message}"
            continue
        for one in (estimator, subject.make()):
            message = refused(_call(one, method), NotSupported, method)
            others = [c.__name__ for c in all_estimators() if method in c.gives()]
            assert any(other in message for other in others), f"{method} names no estimator that gives it: {message}"
    if "influence" in cls.gives():
        message = refused(lambda: estimator.influence([len(study.test)]), InvalidInput, "an unknown test image")
        assert str(len(study.test)) in message, f"an unknown test image is not named: {message}"
    if "parameter_change" in cls.gives():
        message = refused(lambda: estimator.parameter_change([len(study.train)]), InvalidInput, "an unknown image")
        assert str(len(study.train)) in message, f"an unknown training image is not named: {message}"
    for need in sorted(cls.needs):
        lacking = study.replaced(**{need: None})
        message = refused(lambda lacking=lacking: subject.make().fit(lacking), NotSupported, f"no {need}")  # type: ignore[misc]
        assert need in message, f"the lacking {need} is not named: {message}"


def _call(estimator: Estimator, method: str) -> Callable[[], object]:
    arguments = ([0],) if method == "parameter_change" else ()
    return lambda: getattr(estimator, method)(*arguments)


@check()
def declared_needs(subject: Subject) -> None:
    """A study with nothing but what the estimator says it needs can be fitted; a method that needs more names it."""
    lacking = {part: None for part in ("trajectory", "validation") if part not in subject.cls.needs}
    estimator = subject.make().fit(network_study().replaced(**lacking))
    refusals = {method: _refusal(_call(estimator, method)) for method in estimator.gives()}
    for method, message in refusals.items():
        named = message is None or any(part in message for part in lacking)
        assert named, f"{method} does not say what it lacks of {', '.join(lacking)}: {message}"
    assert None in refusals.values(), f"nothing works without {' and '.join(lacking)}: name it in the attribute 'needs'"


def _refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except (InvalidInput, NotSupported) as error:
        return str(error)
    return None


@check()
def not_finite(subject: Subject) -> None:
    """NaN in a weight or an image is found, and the message names it."""

    def work(study: Study) -> Estimator:
        estimator = subject.make().fit(study)
        results(estimator)
        return estimator

    study = network_study()
    name, parameter = list(study.model.named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[0] = math.nan
    message = refused(lambda: work(study), InvalidInput, f"NaN in {name} of the model")
    assert name in message, f"NaN in the weight {name}: the message does not name it: {message}"
    for split in ("train", "test"):
        clean = network_study()
        inputs, labels = clean.split(split).batch(range(len(clean.split(split))))
        inputs = inputs.clone()
        inputs[6, 0, 1, 2] = math.nan
        data = LabelledDataset(TensorDataset(inputs, labels), name=split)
        dirty = clean.replaced(**{split: data})
        message = refused(lambda dirty=dirty: work(dirty), InvalidInput, f"NaN in {split} image 6")  # type: ignore[misc]
        for word in (split, "6"):
            assert word in message, f"NaN in {split} image 6: the message does not name it: {message}"


@check()
def save_and_load(subject: Subject) -> None:
    """A saved estimator gives the same scores, holds no pickle, and refuses another study."""
    study = network_study()
    estimator = subject.make().fit(study)
    before = outcomes(estimator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "estimator.safetensors"
        refused(lambda: subject.make().save(path), NotFitted, "saving before fit")
        estimator.save(path)
        load_tensors(path)  # a file that safetensors reads holds numbers and text alone
        loaded = type(estimator).load(path, network_study())
        assert loaded.get_params() == estimator.get_params(), f"loaded with {loaded.get_params()}"
        assert_same(outcomes(loaded), before, 1e-12, "the estimator was saved and loaded")
        other = network_study(seed=1)
        message = refused(lambda: type(estimator).load(path, other), StaleResult, "loading with another study")
        assert "fit" in message, f"loading with another study does not say what to do: {message}"
