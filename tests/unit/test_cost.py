"""What an estimator costs and lacks, said before it starts; and which one to open with."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import threading
import time
from typing import Any

import pytest
import torch

import influence_core as ic
from influence_core.errors import InfluenceError, InvalidInput, NotSupported
from influence_core.estimators import Estimator, Work, cost
from influence_core.estimators.base import GIVES
from influence_core.estimators.registry import BY_EVIDENCE
from influence_core.estimators.work import VECTOR_SHARE
from tests.estimator_settings import own_estimators, quick

WITHOUT = [dict.fromkeys(names) for names in ((), ("validation",), ("trajectory",), ("trajectory", "validation"))]
FURTHER: dict[str, list[dict[str, Any]]] = {
    "gex": [{"detect_by": "validation"}, {"tune_on": "validation"}],
    "gif": [{"scale": 1.0}],
    "forgetting": [{"source": "checkpoints"}],
}
"""Hyper-parameters that change what an estimator needs."""


def settings() -> list[tuple[type[Estimator], dict[str, Any]]]:
    return [(cls, some) for cls in own_estimators() for some in ({}, *FURTHER.get(cls.name, []))]


@pytest.fixture(scope="module")
def tiny() -> ic.Study:
    torch.manual_seed(0)
    inputs, labels = torch.randn(48, 4), torch.arange(48) // 3 % 3
    parts = [torch.utils.data.TensorDataset(inputs[i::3], labels[i::3]) for i in range(3)]
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    trajectory = ic.training.fit(model, parts[0], epochs=2, batch_size=4, checkpoints=2)
    return ic.Study(model, *parts, trajectory)


def really(study: ic.Study, estimator: Estimator, what: str) -> None:
    estimator.fit(study)
    getattr(estimator, what)(*([[0]] if what in ("influence", "parameter_change") else []))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cls", "some"), settings(), ids=lambda x: x.name if isinstance(x, type) else str(x or ""))
def test_missing_is_what_is_refused(cls: type[Estimator], some: dict[str, Any], tiny: ic.Study) -> None:
    """Fitted and asked for real, on sixteen images: every refusal was announced, and nothing else."""
    for without, what in itertools.product(WITHOUT, cls.gives()):
        study = tiny.replaced(**without)
        estimator = quick(cls)(**some)
        missing = estimator.missing(study, what)
        try:
            really(study, estimator, what)
            refusal = ""
        except InfluenceError as error:
            refusal = str(error)
        assert bool(missing) == bool(refusal), f"{what} without {list(without)}: {missing}, but {refusal!r}"
        words = {"checkpoints": "checkpoint", "a validation set": "validation set", "two checkpoints or more": "two"}
        assert not missing or any(words[thing] in refusal for thing in missing)  # it may end with the first
        if missing and not estimator.missing(study):  # fit alone goes through
            estimator.fit(study)


def test_what_a_model_or_a_loss_lacks_is_missing(tiny: ic.Study) -> None:
    class Bent(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) ** 3

    for study, names in [
        (tiny.replaced(model=Bent(torch.nn.Linear(4, 3)), trajectory=None), ("lastlayer", "deepknn")),
        (tiny.replaced(loss=squares), ("trak",)),
    ]:
        for name in ("lastlayer", "deepknn", "trak"):
            estimator = ic.estimators.get(name)
            if name in names:
                assert estimator.missing(study)
                with pytest.raises(NotSupported):
                    estimator.fit(study)
            else:
                assert estimator.missing(study) == []


def squares(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs - torch.nn.functional.one_hot(labels, outputs.shape[1])).square().sum(1)


def test_what_is_not_given_is_refused(tiny: ic.Study) -> None:
    with pytest.raises(NotSupported, match="gives no influence"):
        ic.estimators.Loss().missing(tiny, "influence")
    with pytest.raises(InvalidInput, match="no method 'influences'; choose one of influence"):
        ic.estimators.TracIn().work(tiny, "influences")
    with pytest.raises(InvalidInput, match="tests is 0"):
        ic.estimators.expected_cost(tiny, ic.estimators.TracIn(), tests=0)


def test_every_estimator_says_what_it_is_good_for() -> None:
    lines = {cls.name: cls.good_for for cls in own_estimators()}
    for name, line in lines.items():
        assert 10 < len(line) <= 90, f"{name}: {line!r}"
        assert not line.endswith(".")
        assert "\n" not in line
    assert len(set(lines.values())) == len(lines)
    table = ic.estimators.available().set_index("name")
    assert table.loc[list(lines), "good_for"].to_dict() == lines
    gives = {"explains": "influence", "detects": "mislabel_scores"}
    for cls in own_estimators():
        words = table.loc[cls.name, "group"].split(" and ")
        assert [w for w in words if w != "edits"] == [w for w, method in gives.items() if method in cls.gives()]


@pytest.mark.parametrize("cls", own_estimators(), ids=lambda cls: cls.name)
def test_every_estimator_states_its_work(cls: type[Estimator], demo: ic.Study) -> None:
    for what in cls.gives():
        work = cls().work(demo, what, 3)
        assert work is not None
        assert all(n >= 0 for part in work for n in dataclasses.astuple(part))
        more = cls().work(demo, what, 30)
        assert more is not None
        assert more[0] == work[0], "fit does not depend on the test images"
        assert min(b - a for a, b in zip(*map(dataclasses.astuple, (work[1], more[1])), strict=True)) >= 0


class Counted(torch.nn.Module):
    """Counts the samples that go through it."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).seen += len(x)
        return x


@pytest.mark.parametrize(
    ("name", "some"),
    [
        *((name, {}) for name in ("tracin", "trak", "ekfac", "datainf", "confidentlearning", "loss", "randproj")),
        *((name, {}) for name in ("samgif", "deepknn", "forgetting", "arnoldi")),
        *((name, {"steps": 30}) for name in ("vm", "fvm", "labelcontrast", "tunedloss", "lissa")),
        *((name, {"members": 3}) for name in ("gex", "gexlinear")),
        ("el2n", {"runs": 2}),
        ("tracinrp", {"last": 1}),
        ("laplace", {"samples": 3}),
    ],
)
def test_stated_passes_are_those_that_are_made(name: str, some: dict[str, Any]) -> None:
    """Forward passes counted inside the model: every pass of a sample is one, whatever follows it."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(900, 4), torch.arange(900) // 3 % 3
    train, test, validation = (torch.utils.data.TensorDataset(inputs[i::3], labels[i::3]) for i in range(3))
    model = torch.nn.Sequential(Counted(), torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    trajectory = ic.training.fit(model, train, optimizer="sam", epochs=4, batch_size=50, checkpoints=2)
    study = ic.Study(model, train, test, validation, trajectory)
    estimator = ic.estimators.get(name, **some)
    solves = name in ("arnoldi", "lissa")  # a product with one vector goes forward once
    what = "influence" if "influence" in estimator.gives() and not solves else "mislabel_scores"
    work = estimator.work(study, what, 100)
    assert work is not None
    Counted.seen = 0
    estimator.fit(study)
    getattr(estimator, what)(*([range(100)] if what == "influence" else []))
    share = 1 + VECTOR_SHARE if solves else 1
    stated = sum(part.forward + part.backward + part.plain / share for part in work)
    tried = 20 * sum(part.sweeps for part in work)  # each sweep tries a few samples first
    least = 0.5 if solves else 0.75  # the Jacobians of all outputs take one forward pass for their backward passes
    assert least * stated <= Counted.seen <= 1.3 * stated + tried + 20


def test_the_expected_cost_of_a_study(demo: ic.Study) -> None:
    trak = ic.estimators.TRAK()
    one, many = (ic.estimators.expected_cost(demo, trak, tests=n) for n in (1, 400))
    assert one.seconds is not None
    assert many.seconds is not None
    assert one.fit_seconds is not None
    assert one.seconds == pytest.approx(one.fit_seconds + (one.query_seconds or 0))
    assert one.fit_seconds == many.fit_seconds
    assert many.seconds > one.seconds
    fitted = ic.estimators.expected_cost(demo, trak, tests=400, fitted=True)
    assert (fitted.fit_seconds, fitted.query_seconds) == (0.0, many.query_seconds)
    assert one.passes == "6,006 backward"  # six checkpoints of a thousand images, and the test image
    assert "fit" not in str(fitted)


def test_the_expected_cost_of_training_is_that_of_its_steps(demo: ic.Study) -> None:
    pace, recipe = cost.measured_pass(demo), demo.trajectory.recipe if demo.trajectory else None
    assert pace is not None
    assert recipe is not None
    steps = sum(-(-n // recipe.batch_size) for n in (1000, 990))
    expected = ic.estimators.expected_training(demo, [1000, 990])
    assert recipe.optimizer == "sam"  # which climbs first: two passes a step
    assert expected.seconds == pytest.approx(2 * recipe.epochs * (1990 * pace.plain + steps * pace.step))
    assert expected.passes == f"{2 * recipe.epochs * 1990:,} backward"


def test_what_is_not_known_is_said(tiny: ic.Study) -> None:
    unknown = ic.estimators.Expected(None, None, None, "not known")
    assert ic.estimators.expected_cost(tiny.replaced(trajectory=None), ic.estimators.TracIn()) == unknown
    assert ic.estimators.expected_cost(tiny, ic.estimators.VM(metric="lissa")) == unknown
    assert str(unknown) == "not known"


@pytest.mark.parametrize(
    ("fit", "query", "text"),
    [
        (120.0, 3.0, "about 2 min (fit) + 3 s"),
        (0.0, 0.42, "about 0.4 s"),
        (0.02, 0.01, "under 0.1 s"),
        (9.97, 0.0, "about 10 s (fit)"),
        (5 * 3600.0, 200.0, "about 5 h (fit) + 3 min"),
        (3 * 86400.0, 0.0, "about 3 days (fit)"),
    ],
)
def test_times_as_a_person_reads_them(fit: float, query: float, text: str) -> None:
    assert str(ic.estimators.Expected(fit + query, fit, query, "")) == text


@pytest.mark.parametrize(
    ("mib", "text"),
    [
        (None, "about 3 s"),
        (3.2, "about 3 s, and under 10 MiB of memory"),
        (618.0, "about 3 s, and 620 MiB of memory"),
        (2150.0, "about 3 s, and 2.1 GiB of memory"),
    ],
)
def test_memory_as_a_person_reads_it(mib: float | None, text: str) -> None:
    assert ic.estimators.Expected(3.0, 0.0, 3.0, "", mib).in_words() == text


def test_what_is_kept_is_in_the_expected_memory(demo: ic.Study) -> None:
    size = sum(p.numel() for p in demo.model.parameters())
    solving = ic.estimators.expected_cost(demo, ic.estimators.LiSSA()).memory_mib
    assert solving == pytest.approx(4 * 1000 * 10 * size / 2**20, rel=0.1)  # the Jacobians of the outputs
    light = ic.estimators.expected_cost(demo, ic.estimators.LastLayer()).memory_mib
    assert light is not None
    assert solving is not None
    assert light < solving / 10


def test_work_adds_up() -> None:
    two = Work(1, 2, 3, 4, 5, 6) + Work(1, 1, 1, 1, 1, 1)
    assert two == Work(2, 3, 4, 5, 6, 7)
    assert 2 * two == Work(4, 6, 8, 10, 12, 14)
    assert Work(forward=1500.4, backward=2, plain=3).words() == "1,500 forward, 5 backward"
    assert Work().words() == "no passes"
    pace = cost.MeasuredPass(1, 10, 100, 1000, 10_000, 100_000)
    assert pace.seconds(Work(1, 2, 3, 4, 5, 6)) == 654_321


def test_measuring_leaves_everything_as_it_was(tiny: ic.Study) -> None:
    study = tiny.replaced(model=torch.nn.Sequential(copy.deepcopy(tiny.model), torch.nn.Dropout()), trajectory=None)
    before, random, mark = copy.deepcopy(study.model.state_dict()), torch.get_rng_state(), study.fingerprint
    assert cost.measured_pass(study) is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in study.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in study.model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert not study.model.training
    assert study.replaced().fingerprint == mark


def test_one_measurement_for_all_threads(tiny: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study, calls = tiny.replaced(), []
    whole = cost._measure

    def slow(one: ic.Study) -> cost.MeasuredPass:
        calls.append(one)
        time.sleep(0.05)
        return whole(one)

    monkeypatch.setattr(cost, "_measure", slow)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(cost.measured_pass(study))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 6
    assert len({id(one) for one in found}) == 1


def test_a_model_without_per_sample_gradients_has_no_known_seconds(tiny: ic.Study) -> None:
    class Mixing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    study = tiny.replaced(model=torch.nn.Sequential(torch.nn.Linear(4, 3), Mixing()), trajectory=None)
    found = ic.estimators.expected_cost(study, ic.estimators.RandProj())
    assert found.seconds is None
    assert found.passes == "17 backward"


# --- which to open with


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes a millisecond, and nothing else any time."""
    monkeypatch.setattr(cost, "measured_pass", lambda study: cost.MeasuredPass(1e-3, 1e-3, 1e-3, 0, 0, 0))


@pytest.mark.usefixtures("paced")
def test_the_best_that_is_done_in_time(demo: ic.Study) -> None:
    for what, order in BY_EVIDENCE.items():
        assert ic.estimators.recommended(demo, what, seconds=1e9) == order[0]
        costs = {n: ic.estimators.expected_cost(demo, ic.estimators.get(n), what).seconds or 0.0 for n in order}
        for limit in [*costs.values(), 0.5 * min(costs.values())]:
            fitting = [n for n in order if costs[n] <= limit]
            found = ic.estimators.recommended(demo, what, limit)
            if fitting:
                assert found == fitting[0]
            else:
                assert what in ic.estimators.get(found).gives()
                assert found != "random"


@pytest.mark.usefixtures("paced")
def test_what_a_study_lacks_is_not_recommended(demo: ic.Study) -> None:
    bare = demo.replaced(validation=None, trajectory=None)
    assert ic.estimators.recommended(demo, "mislabel_scores", 1e9) == "labelcontrast"
    assert ic.estimators.recommended(bare, "mislabel_scores", 1e9) == "el2n"
    assert ic.estimators.recommended(bare, "mislabel_scores", 0.0) == "loss"
    assert ic.estimators.recommended(bare, "influence", 1e9) == "ekfac"
    with pytest.raises(InvalidInput, match="no recommendation for 'label_influence'; choose one of influence"):
        ic.estimators.recommended(demo, "label_influence")


def test_names_of_the_order_are_estimators() -> None:
    for what, order in BY_EVIDENCE.items():
        assert what in GIVES
        assert all(what in ic.estimators.get(name).gives() for name in order)
