"""What if, and Apply and measure: what the pages predict and measure is what the library does, and it is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import influence_core as ic
from influence_core.jobs.table import Table
from influence_core.store import training

from .runner import begun, gallery, linked, settled, start, surest, texts, work
from .test_jobs import entered, jobs_page, links, texts_of_bars

from parts import predicted, results, steps, stored, studies  # type: ignore[import-not-found]  # isort: skip

pytestmark = [pytest.mark.usefixtures("patience", "nothing_kept")]


@pytest.fixture(scope="module")
def small(demo: ic.Study) -> ic.Study:
    """Training it takes a moment; all mistakes are among its test images."""
    wrong = demo.misclassified().tolist()
    right = [i for i in range(len(demo.test)) if i not in set(wrong)][:24]
    return demo.replaced(
        train=demo.train.subset(range(160)),
        test=demo.test.subset(wrong + right),
        validation=None,
        trajectory=None,  # so that its recipe is a short one
        name="small",
    )


@pytest.fixture
def run(small: ic.Study) -> str:
    studies.sources()
    studies._sources["small"] = studies.Source(lambda: small, "study")
    return "small"


def fitted(study: ic.Study) -> ic.estimators.Estimator:
    return ic.estimators.LastLayer().fit(study)


def the_table(shown: pd.DataFrame, found: ic.applications.WhatIf) -> None:
    made = found.table
    columns = [column for column in shown.columns if column in made]
    assert {"test_id", "loss", "predicted_change", "mends", "breaks"} <= set(columns)
    pd.testing.assert_frame_equal(shown[columns], made[columns], check_dtype=False, rtol=1e-5)


def test_the_suspects_left_out_are_what_the_library_predicts(run: str, small: ic.Study) -> None:
    app = start("what_if.py", run=run, count="7")
    estimator = fitted(small)
    ids = ic.applications.detect(small, estimator.mislabel_scores()).flagged[:7].tolist()
    found = ic.applications.what_if(small, estimator, ids)
    assert gallery(app, "changed")["id"] == ids
    the_table(app.dataframe[0].value, found)
    assert set(gallery(app, "mends")["id"]) == set(found.mends.tolist())
    assert set(gallery(app, "breaks")["id"]) == set(found.breaks.tolist())
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Change of the mean test loss, nats"] == f"{float(found.predicted.mean()):+.3g}"
    assert shown["Accuracy of the edited model"] == f"{found.edited.accuracy():.1%}"
    assert shown["Mistakes mended"] == f"{len(found.mends)}"
    assert "No prediction of Last layer has been checked" in texts(app)
    assert not ic.applications.receipts(ic.store.Store())  # looking writes nothing down


def test_the_most_harmful_of_a_mistake(run: str, small: ic.Study) -> None:
    app = start("what_if.py", run=run, set="harmful", count="5")
    test_id = surest(small, small.misclassified())
    ids = fitted(small).influence([test_id]).harmful(test_id, 5)["train_id"].tolist()
    assert gallery(app, "changed")["id"] == ids
    the_table(app.dataframe[0].value, ic.applications.what_if(small, fitted(small), ids))
    app.number_input(key="test").set_value(3).run()
    assert app.query_params["test"] == "3"
    other = fitted(small).influence([3]).harmful(3, 5)["train_id"].tolist()
    assert gallery(settled(app), "changed")["id"] == other


@pytest.mark.parametrize(
    "query",
    [
        {"set": "flagged", "count": "9"},
        {"set": "flagged", "class": "3", "action": "relabel"},
        {"set": "class", "class": "8", "count": "12", "action": "relabel"},
        {"set": "harmful", "test": "2", "count": "4"},
    ],
)
def test_view_link_and_code_are_one(run: str, small: ic.Study, query: dict[str, str]) -> None:
    app = start("what_if.py", run=run, **query).run()  # once more: what fills in may have come while it was drawn
    assert not app.exception
    params = linked(app)
    assert {key: params[key] for key in query} == query
    again = start("what_if.py", **params)
    assert texts(again) == texts(app)
    assert [one.proto.json for one in again.get("bidi_component")] == [
        one.proto.json for one in app.get("bidi_component")
    ]
    assert [one.value.to_csv() for one in again.dataframe] == [one.value.to_csv() for one in app.dataframe]
    (lines,) = [code.value for code in app.code if "what_if" in code.value]
    made = {"study": small}
    exec(lines.replace("study = study\n", ""), made)
    found = made["found"]
    the_table(app.dataframe[0].value, found)
    assert gallery(app, "changed")["id"] == list(made["ids"])
    loss, mended, broken, accuracy = (metric.value for metric in app.metric)
    assert loss == f"{float(found.predicted.mean()):+.3g}"
    assert (mended, broken) == (f"{len(found.mends):,}", f"{len(found.breaks):,}")
    assert accuracy == f"{found.accuracy:.1%}"


def test_what_cannot_be_changed_is_told_in_a_sentence(run: str, small: ic.Study) -> None:
    assert "Choose a class in the sidebar." in texts(start("what_if.py", run=run, set="class"))
    label, most = int(small.train.labels[0]), int((small.train.labels == small.train.labels[0]).sum())
    many = texts(start("what_if.py", run=run, set="class", count="150", **{"class": str(label)}))
    assert f"There are {most} such images, not 150: here are all." in many
    told = texts(start("what_if.py", run=run, set="class", action="relabel", **{"class": str(label)}))
    assert "would be relabelled" in told


def test_a_verified_receipt_is_what_training_shows_and_is_found_again(run: str, small: ic.Study) -> None:
    app = start("what_if.py", run=run, count="7", seeds="1")
    assert "Trains 2 models" in texts(app)
    app.button(key="do_verify").click().run()
    settled(app)
    estimator = fitted(small)
    ids = ic.applications.detect(small, estimator.mislabel_scores()).flagged[:7].tolist()
    receipt = ic.applications.what_if(small, estimator, ids).verify(seeds=(0,))
    shown = app.dataframe[0].value
    by_test = dict(zip(receipt.test_ids, receipt.actual, strict=True))
    assert shown["actual_change"].tolist() == pytest.approx([by_test[i] for i in shown["test_id"]], rel=1e-6)
    before, after = receipt.accuracy
    assert f"Test accuracy goes from {before:.1%} to {after:.1%}" in texts(app)
    assert f"correlation {ic.applications.calibration([receipt]).correlation:.2f}" in texts(app)
    (kept,) = ic.applications.receipts(ic.store.Store())
    assert kept.verified
    assert kept.actual == pytest.approx(receipt.actual, rel=1e-6)
    work._kept.clear()  # as a new server has it
    work._parts.clear()
    again = start("what_if.py", run=run, count="7", seeds="1")
    assert again.dataframe[0].value.equals(shown)
    assert not [button for button in again.button if button.key == "do_verify"]
    more = start("what_if.py", run=run, count="9", seeds="1")  # unlike what was checked
    assert "before you rely on it" in texts(more)
    assert "What earlier predictions" in str([e.label for e in more.expander])


def test_what_was_stopped_goes_on_from_the_finished_trainings(
    run: str, small: ic.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    train = training.train

    def counted(study, data, seed, *rest):
        made.append(seed)
        if len(made) == 3:
            raise work.Stopped
        return train(study, data, seed, *rest)

    monkeypatch.setattr(training, "train", counted)
    app = start("what_if.py", run=run, count="7", seeds="2")
    app.button(key="do_verify").click().run()
    settled(app)
    assert made == [0, 0, 1]
    assert app.button(key="do_verify").label == "Verify"
    app.button(key="do_verify").click().run()
    settled(app)
    assert made == [0, 0, 1, 1, 1]  # nothing of the first seed is trained again
    assert "Test accuracy goes from" in texts(app)


def test_apply_and_measure_shows_the_gain_of_the_library(run: str, small: ic.Study) -> None:
    app = start("relabel.py", run=run, rows="differs", seeds="1")
    rows = app.dataframe[0].value
    assert f"these **{len(rows)} suggestions**" in texts(app)
    assert "4 trainings" in texts(app)
    app.button(key="do_measure").click().run()
    settled(app)
    table = ic.applications.relabel(small, fitted(small))
    table = table[table["is_label_issue"] & (table["given_label"] != table["suggested_label"])]
    report = ic.applications.mend(
        small, decisions=table.assign(decision="relabel"), controls=["random", "clean"], seeds=(0,)
    )
    assert f"**Gain on the test set** · {report.gain}" in texts(app)
    assert all(sentence in texts(app) for sentence in report.sentences())
    assert set(report.images["train_id"]) == set(rows["index"])


def test_without_true_labels_random_ones_alone_stand_beside(small: ic.Study) -> None:
    data = small.train
    bare = ic.data.LabelledDataset(
        torch.utils.data.TensorDataset(data.batch(range(len(data)))[0], data.labels), class_names=data.class_names
    )
    studies.sources()
    studies._sources["bare"] = studies.Source(lambda: small.replaced(train=bare, name="bare"), "study")
    app = start("relabel.py", run="bare", rows="differs")
    assert not app.exception
    assert "beside random labels: 9 trainings" in texts(app)


def test_nothing_slow_begins_by_itself(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun_here: list[str] = []
    start_it = steps.Step.start
    monkeypatch.setattr(steps.Step, "start", lambda step: begun_here.append(step.what) or start_it(step))
    start("relabel.py", run=run)
    start("what_if.py", run=run)
    assert begun_here == ["Last layer: prediction"]
    monkeypatch.setattr(predicted, "at_once", lambda *_: False)
    app = begun("what_if.py", run=run, count="3", estimator="lastlayer")
    assert [button.label for button in app.main.button if button.key == "do_predict"] == ["Predict"]


# --- as jobs


@dataclass(frozen=True)
class Trains:
    """A page with a step that trains.

    Attributes:
        page: its file.
        path: in the address.
        query: of it.
        key: of the step.
        what: begins the title of its job.
        shown: what it says once it is through.
    """

    page: str
    path: str
    query: dict[str, str]
    key: str
    what: str
    shown: str

    def trainings(self, study: ic.Study) -> ic.store.Trainings:
        estimator = fitted(study)
        if self.path == "what-if":
            ids = ic.applications.detect(study, estimator.mislabel_scores()).flagged[:7].tolist()
            return ic.applications.what_if(study, estimator, ids).trainings((0,))
        table = ic.applications.relabel(study, estimator)
        table = table[table["is_label_issue"] & (table["given_label"] != table["suggested_label"])]
        decisions = table.assign(decision="relabel")
        return ic.applications.mending_trainings(study, decisions=decisions, controls=["random", "clean"], seeds=(0,))

    def start(self) -> AppTest:
        return start(self.page, run="small", seeds="1", **self.query)


STEPS = [
    Trains("what_if.py", "what-if", {"count": "7"}, "verify", "Verify: 2 trainings", "The prediction was"),
    Trains("relabel.py", "relabel", {"rows": "differs"}, "measure", "Apply and measure: 4", "Gain on the test set"),
]
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.path)


@pytest.fixture
def long(
    run: str, small: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: ic.store.Store
) -> list[ic.store.Trainings]:
    """All trainings take too long for the server; none begins."""
    if small._home is None:
        small.save(tmp_path / "small")
    asked: list[ic.store.Trainings] = []

    def submit(task: ic.store.Trainings, *, store: ic.store.Store, **how: object) -> ic.jobs.Job:
        assert how == {"keep": True, "patience": stored.PATIENCE, "first": False}
        asked.append(task)
        entered(store, task, "running", step=f"1 of {len(task.members)} trainings")
        return ic.jobs.Job(store, task.key, task)

    monkeypatch.setattr(ic.jobs, "submit_task", submit)
    monkeypatch.setattr(results, "IN_SERVER", -1.0)
    return asked


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages ask of estimators is answered here, not by a job."""
    start_it = results.Question.start

    def here(question: results.Question, *rest: object) -> results.Question:
        with monkeypatch.context() as patch:
            patch.setattr(results, "IN_SERVER", 1e9)
            return start_it(question, *rest)

    monkeypatch.setattr(results.Question, "start", here)


@each_step
def test_what_trains_long_is_one_job_that_the_page_watches_and_completes(
    step: Trains, long: list[ic.store.Trainings], small: ic.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly(monkeypatch)
    app, task, store = step.start(), step.trainings(small), ic.store.Store()
    assert "becomes a job, which goes on when this page is closed" in texts(app)
    app.button(key=f"do_{step.key}").click().run()
    assert [one.key for one in long] == [task.key]
    assert not work._tasks
    (row,) = ic.jobs.rows(store)
    assert row.title.startswith(step.what)
    count = f"1 of {len(task.members)} trainings"
    assert f"{row.title} · {count} · about 2 min left" in texts_of_bars(app)
    assert "It goes on when this page is closed, and when the server ends." in texts(app)
    assert f"job={row.id[:12]}" in links(app)["Job"]
    Table(store.path).end(row, "cancelled")
    app.run()
    assert f"was stopped after {count}." in texts(app)
    assert [button.label for button in app.main.button if button.key == f"resume_{step.key}"] == ["Resume"]
    assert not [button for button in app.main.button if button.key == f"do_{step.key}"]
    jobs = jobs_page(job=row.id[:12])
    assert {"Resume", "Remove"} <= {button.label for button in jobs.main.button}
    place = links(jobs)["Open"]
    assert place.startswith(f"{step.path}?")
    assert all(f"{key}={value}" in place for key, value in {"run": "small", "seeds": "1", **step.query}.items())
    store.compute(ic.store.task_from_spec(small, json.loads(row.spec)))  # as its worker does
    monkeypatch.setattr(training, "train", None)  # and nobody else
    for _ in range(2):
        shown = texts(step.start())
        assert step.shown in shown
        assert "Verify it below" not in shown
        work._kept.clear()  # as a new server has it
        work._parts.clear()
    assert len(long) == 1


@each_step
def test_what_no_other_process_can_train_is_trained_here_and_says_so(
    step: Trains, long: list[ic.store.Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly(monkeypatch)

    def refuses(*_: object, **__: object) -> None:
        raise ic.NotSupported("its loss is known to this one alone")

    monkeypatch.setattr(ic.jobs, "submit_task", refuses)
    app = step.start()
    monkeypatch.setattr(work, "PATIENCE", 0.0)
    app.button(key=f"do_{step.key}").click().run()
    assert "It ends with this server: its loss is known to this one alone" in texts(app)
    assert "It ends a while after the last page that shows it is closed" in texts(app)
    assert step.shown in texts(settled(app))
    assert not ic.jobs.rows(ic.store.Store())
