"""A comparison: what is in its cells, what it says where there is nothing, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import EKFAC, LastLayer, Random
from influence_core.evaluation import Comparison, compare
from influence_core.evaluation.explained import MOST, explained_ids
from influence_core.figures.comparison import MEASURES
from influence_core.store import Retrainings, Store
from influence_core.testing.problems import network_study

TESTS = [1, 4, 8]


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return network_study()


class Broken(Random):
    """Fails in one way or another."""

    def _fit(self, study: ic.Study) -> None:
        raise (RuntimeError("no <b>luck</b>\nat all") if self.seed else MemoryError("it is full"))

    def _influence(self, test_ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError("never fitted")


@pytest.fixture(scope="module")
def report(study: ic.Study) -> Comparison:
    bare = study.replaced(trajectory=None, validation=None)
    return compare(
        bare, ["lastlayer", "tracin", EKFAC(damping=0.1), EKFAC(), "random", "gif", "fvm", Broken(1)], test=TESTS
    )


def cells(report: Comparison, name: str) -> dict[str, float]:
    return report.table.set_index("estimator").drop(columns="why_empty").loc[name].to_dict()


def test_rows_are_in_order_and_named_by_what_differs(report: Comparison) -> None:
    names = [
        "lastlayer", "tracin", "ekfac (damping=0.1)", "ekfac (damping=0.01)", "random (seed=0)", "gif", "fvm",
        "random (seed=1)",
    ]  # fmt: skip
    assert report.table["estimator"].tolist() == names
    assert list(report.estimators) == names
    assert list(report.influence) == ["lastlayer", "ekfac (damping=0.1)", "ekfac (damping=0.01)"]
    assert report.influence["lastlayer"].test_ids is not None
    assert report.influence["lastlayer"].test_ids.tolist() == TESTS


def test_every_empty_cell_has_a_reason_and_no_other_has(report: Comparison) -> None:
    for name in report.estimators:
        for column, value in cells(report, name).items():
            assert math.isnan(value) == (report.reason(name, column) is not None), (name, column)
    assert report.reason("random (seed=0)", "influence_seconds") == (
        "Random (control) gives no influence: random numbers are a control for detection alone"
    )
    assert "needs the checkpoints" in str(report.reason("tracin", "auc_percent"))
    assert "needs a validation set" in str(report.reason("fvm", "top_10_shared_percent"))
    assert report.reason("random (seed=1)", "ap_percent") == "RuntimeError: no <b>luck</b>"
    assert "no sum over images" in str(report.reason("gif", "fit_seconds"))
    with pytest.raises(InvalidInput, match="no row 'trak'"):
        report.reason("trak", "auc_percent")
    with pytest.raises(InvalidInput, match="no column 'lds'"):
        report.reason("gif", "lds")


def test_one_that_fails_does_not_keep_the_others_from_their_rows(report: Comparison) -> None:
    assert all(not math.isnan(value) for value in cells(report, "lastlayer").values())
    assert cells(report, "random (seed=0)")["auc_percent"] > 0
    assert all(
        math.isnan(value) for column, value in cells(report, "random (seed=1)").items() if "expected" not in column
    )
    said = report.sentences()
    assert any(s.startswith("random (seed=1) gave nothing: ") and "luck" in s for s in said)
    assert any(s.startswith("tracin gave nothing") for s in said)
    assert not any(s.startswith("lastlayer gave nothing") for s in said)
    assert said[-1] == "Without a training again nothing here says whether the influence is true."


def test_costs_are_those_of_the_calls(report: Comparison) -> None:
    found, fitted = cells(report, "lastlayer"), report.estimators["lastlayer"]
    assert found["fit_seconds"] == fitted.fit_cost_.seconds
    assert found["influence_seconds"] == report.influence["lastlayer"].meta["seconds"]
    assert found["expected_seconds"] > 0
    assert found["peak_memory_mib"] >= 0


def test_nothing_is_fitted_twice_and_all_can_be_left_out(study: ic.Study) -> None:
    fitted = LastLayer().fit(study)
    before = fitted.fit_cost_
    found = compare(study, [fitted], test=3, cost=False, agreement=False, detection=False)
    assert fitted.fit_cost_ is before
    assert list(found.table.columns) == ["estimator", "why_empty"]
    assert found.measured == ()
    assert "Not measured: what they cost (cost=True); agreement (agreement=True)" in found.sentences()[-2]
    alone = compare(study, ["lastlayer"], test=3, cost=False, detection=False)
    assert alone.shared is None
    assert alone.reason("lastlayer", "top_10_shared_percent") == "no other estimator gives influence here"


def test_without_true_labels_detection_is_told_to_be_missing(study: ic.Study) -> None:
    train = ic.data.LabelledDataset(study.train.base)
    found = compare(study.replaced(train=train), ["loss", "lastlayer"], test=TESTS, cost=False)
    assert "detection" not in found.measured
    assert not any("auc" in column for column in found.table.columns)
    assert any("no true labels" in s for s in found.sentences())
    right = study.train.with_labels(study.train.true_labels)  # type: ignore[arg-type]
    found = compare(study.replaced(train=right), ["lastlayer"], test=TESTS, cost=False)
    assert found.absent["detection"] == "all 24 labels of the training set are right"


# --- which test images


def answering(answers: torch.Tensor) -> ic.Study:
    """A study whose model gives each test image the class that is asked for."""
    inputs = torch.eye(3).double()[answers]
    test = torch.utils.data.TensorDataset(inputs, torch.zeros(len(answers), dtype=torch.long))
    model = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    return ic.Study(model, torch.utils.data.TensorDataset(torch.rand(9, 3).double(), torch.arange(9) % 3), test)


def test_the_misclassified_are_explained_and_no_more_than_a_bounded_number() -> None:
    answers = torch.zeros(100, dtype=torch.long)
    answers[[3, 50, 97]] = 1
    assert explained_ids(answering(answers), None).tolist() == [3, 50, 97]
    assert explained_ids(answering(answers), None, torch.tensor([97, 5, 3])).tolist() == [3, 97]
    answers[10:] = 2
    many = explained_ids(answering(answers), None)
    assert len(many) == len(many.unique()) == MOST
    assert (int(many[0]), int(many[-1])) == (3, 99)
    assert many.diff()[1:].max() <= 5  # evenly over 92
    assert explained_ids(answering(answers), 5).tolist() == [5]
    with pytest.raises(InvalidInput, match="no test image 100"):
        explained_ids(answering(answers), [100])


def test_where_none_is_wrong_the_largest_losses_are_explained() -> None:
    study = answering(torch.zeros(40, dtype=torch.long))
    inputs, labels = study.test.batch(range(40))
    inputs = inputs * torch.linspace(1, 5, 40).double()[:, None]  # the first are the least sure
    study = study.replaced(test=torch.utils.data.TensorDataset(inputs, labels))
    assert not len(study.misclassified())
    assert explained_ids(study, None).tolist() == list(range(MOST))


# --- what is trained again


def test_what_is_kept_is_not_trained_again(study: ic.Study, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")  # type: ignore[operator]
    asked = {"test": TESTS, "retrained": 3, "leave_one_out": 3, "removal": 0.1, "seeds": (0, 1), "store": store}
    asked |= {"cost": False, "detection": False}
    first = compare(study, ["lastlayer"], **asked)  # type: ignore[arg-type]
    assert first.measured == ("agreement", "lds", "leave_one_out", "removal")
    assert first.retrained is not None
    assert first.retrained.losses.shape == (3, len(study.test))  # of all, for the next question
    assert len(first.removals["lastlayer", "helpful"].removed) == 2

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Retrainings, "compute", never)
    again = compare(study, ["lastlayer"], **asked)  # type: ignore[arg-type]
    assert again.table.equals(first.table)
    kept = {"retrained": first.retrained, "leave_one_out": first.leave_one_out}
    given = compare(study, ["tracin"], test=TESTS, **kept, cost=False, detection=False)  # type: ignore[arg-type]
    assert given.table["lds_percent"].notna().all()
    assert given.table["leave_one_out_percent"].notna().all()


def test_a_training_that_is_impossible_leaves_the_rest(study: ic.Study) -> None:
    def impossible(study: ic.Study, kept: torch.Tensor, seed: int) -> nn.Module:
        raise NotSupported("it cannot be trained")

    asked = {"removal": 0.1, "retrain": impossible, "cost": False, "detection": False}
    found = compare(study, ["lastlayer", "tracin"], test=TESTS, **asked)  # type: ignore[arg-type]
    assert found.absent["removal"] == "it cannot be trained"
    assert found.table["top_10_shared_percent"].notna().all()
    assert any("it cannot be trained" in s for s in found.sentences())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"estimators": []}, "give some, such as"),
        ({"estimators": "ekfac"}, "give some, such as"),
        ({"estimators": ["nonsense"]}, "no estimator 'nonsense'"),
        ({"estimators": [3]}, "3 is no estimator"),
        ({"k": 0}, "k is 0"),
        ({"removal": 0.6}, "removal is 0.6"),
        ({"removal": True}, "removal is True"),
        ({"leave_one_out": 2}, "takes 3 to 24 images"),
        ({"retrained": 2}, "takes 3 subsets"),
        ({"retrained": True}, "takes 3 subsets"),
        ({"removal": 0.1, "seeds": ()}, "seeds is empty"),
        ({"test": [9]}, "no test image 9"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    study: ic.Study, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        compare(study, **({"estimators": [Broken()]} | arguments))  # type: ignore[arg-type]


def test_an_object_comes_once_and_foreign_test_images_are_refused(study: ic.Study) -> None:
    one = LastLayer()
    with pytest.raises(InvalidInput, match="comes twice"):
        compare(study, [one, one])
    kept = ic.evaluation.retrain_subsets(study, lambda s, k, n: s.model, torch.eye(24).bool()[:4], test=[0, 1])
    with pytest.raises(InvalidInput, match=r"none of the test images .* such as \[0, 1\]"):
        compare(study, [one], test=[2], retrained=kept)
    scores = one.fit(study).mislabel_scores()
    with pytest.raises(InvalidInput, match="mislabel scores"):
        compare(study, [one], leave_one_out=scores)


# --- how it is shown


def test_a_notebook_shows_names_as_text_and_reasons_on_empty_cells(report: Comparison) -> None:
    page = report._repr_html_()
    assert "<b>luck</b>" not in page
    assert 'title="RuntimeError: no &lt;b&gt;luck&lt;/b&gt;">–</td>' in page
    assert page.count("<tr>") == 1 + len(report.table)
    assert repr(report).startswith("Comparison(8 estimators on 3 test images of ")


def test_the_figure_has_a_marker_with_its_interval_for_each_number(report: Comparison) -> None:
    (trace,) = report.figure("auc").data
    rows = report.table[report.table["auc_percent"].notna()]
    assert [name for (name,) in trace.customdata] == rows["estimator"].tolist()
    assert list(trace.y) == rows["auc_percent"].tolist()
    assert list(trace.error_y.array) == pytest.approx((rows["auc_high_percent"] - rows["auc_percent"]).tolist())
    assert list(trace.error_y.arrayminus) == pytest.approx((rows["auc_percent"] - rows["auc_low_percent"]).tolist())
    seconds = rows["fit_seconds"] + rows["mislabel_seconds"]
    assert list(trace.x) == pytest.approx(seconds.clip(lower=1e-3).tolist())
    figure = report.figure()
    assert figure.layout.yaxis.title.text == MEASURES["ap"].title  # the first that there is
    assert figure.layout.xaxis.type == "log"


def test_a_figure_of_what_was_not_measured_is_refused(report: Comparison, study: ic.Study) -> None:
    with pytest.raises(NotSupported, match="no lds; it has ap, auc, correlation_with_others"):
        ic.figures.comparison(report, "lds")
    with pytest.raises(InvalidInput, match="no measure 'beauty'"):
        report.figure("beauty")
    bare = compare(study, ["lastlayer", "tracin"], test=TESTS, cost=False, detection=False)
    (trace,) = bare.figure().data
    assert len(set(trace.x)) == 2  # side by side
    with pytest.raises(NotSupported, match="no measure at all"):
        compare(study, ["lastlayer"], test=TESTS, cost=False, agreement=False, detection=False).figure()


def test_labels_that_are_no_classes_can_be_compared() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    data = [torch.utils.data.TensorDataset(torch.rand(n, 1, 4, 4).double(), torch.rand(n, 2).double()) for n in (12, 6)]
    study = ic.Study(model, *data, loss=lambda outputs, labels: (outputs - labels).square().sum(1))
    found = compare(study, ["tracin", "conjugategradient", "lastlayer"], cost=False)
    assert len(found.test_ids) == 6
    assert found.reason("tracin", "top_10_shared_percent") is not None


def test_the_study_does_not_change() -> None:
    study = network_study()
    before = study.fingerprint
    compare(study, ["lastlayer", "tracin"], test=[0], cost=False, detection=False)
    assert study.fingerprint == before == study._computed_fingerprint()
