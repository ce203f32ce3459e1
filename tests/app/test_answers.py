"""What a page asks of estimators: what comes first, what waits for a click, what is stopped, what fails."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import pytest
from parts import results, stored  # type: ignore[import-not-found]

import influence_core as ic

from .runner import (
    LONG,
    QUICK,
    begun,
    detection,
    fine,
    gallery,
    plain,
    same,
    settled,
    start,
    surest,
    texts,
    work,
)

pytestmark = pytest.mark.usefixtures("patience")


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("page", ["overview.py", "explain.py", "mislabels.py", "relabel.py", "what_if.py"])
def test_with_no_estimator_named_the_best_by_evidence_are_asked(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(key: Any, make: Any, what: str, *_: Any, **__: Any) -> Any:
        asked.append(key)
        return work.Task(key, what, make)  # that never begins

    best = ic.estimators.recommended  # however busy this machine is, so that all takes longer
    monkeypatch.setattr(ic.estimators, "recommended", lambda study, what, there: best(study, what, 1e9))
    monkeypatch.setattr(results, "BY_DEFAULT", 1e9)
    monkeypatch.setattr(work, "ask", ask)
    monkeypatch.setattr(work, "peek", lambda key: None)
    monkeypatch.setattr(work, "PATIENCE", 0.0)
    app = begun(page)
    asked.clear()
    app.run()
    assert fine(app), texts(app)
    choice = app.session_state["choice"]
    assert (choice.explainers, choice.detectors) == (("ekfac",), ("labelcontrast",))
    influence = page in ("overview.py", "explain.py")
    explains = influence or page == "what_if.py"  # which asks first what it is to predict of
    assert app.sidebar.multiselect(key="estimators").value == ["ekfac" if explains else "labelcontrast"]
    (key,) = set(asked)  # and nothing else while a person waits
    assert key[1:3] == (("ekfac", "influence") if influence else ("labelcontrast", "detection"))
    assert "estimator" not in app.query_params
    assert [button.label for button in app.main.button if button.label == "Stop"] == ["Stop"]


def test_a_detector_on_explain_is_told_and_the_recommended_one_answers(demo: ic.Study) -> None:
    app = start("explain.py", estimator="loss", test="17")
    (note,) = app.info
    best = ic.estimators.get(ic.estimators.recommended(demo, "influence"))
    assert f"{ic.estimators.get('loss').title} explains no test image" in plain(note.value)
    assert f"Here is {best.title}" in plain(note.value)
    scores = best.fit(demo).influence([17])
    same(app.dataframe[0].value, scores.harmful(17, 5))
    assert "estimator" in app.query_params  # and the choice is kept, for the pages that it is for
    assert not settled(app.switch_page("mislabels.py").run()).info


def test_work_that_takes_long_waits_for_a_click(nothing_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "AT_ONCE", -1.0)
    app = begun("explain.py", estimator=QUICK, test="475")
    assert f"**{ic.estimators.get(QUICK).title}** needs" in texts(app)
    assert not app.dataframe
    assert not work.results()  # nothing has begun by another way
    next(button for button in app.main.button if button.label == "Start").click().run()
    assert len(settled(app).dataframe) == 2


def test_what_is_stopped_stays_so_until_it_is_asked_for_again(
    nothing_kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting, go = threading.Event(), threading.Event()
    fit = ic.estimators.LastLayer.fit

    def slow(self: ic.estimators.LastLayer, study: ic.Study) -> Any:
        fitting.set()
        for _ in ic.progress.track(range(100_000), "Slow fit"):
            if go.wait(0.01):
                break
        return fit(self, study)

    monkeypatch.setattr(ic.estimators.LastLayer, "fit", slow)
    monkeypatch.setattr(work, "PATIENCE", 0.05)
    app = begun("explain.py", estimator=QUICK, test="17")
    assert fitting.wait(LONG)
    app.run()
    app.button(key="stop_explain_lastlayer").click().run()
    work.wait(list(work._tasks.values()), LONG)
    app.run()
    assert "was stopped" in texts(app)
    assert not work._tasks
    go.set()
    monkeypatch.setattr(work, "PATIENCE", LONG)
    app.button(key="restart_explain_lastlayer").click().run()
    assert len(settled(app).dataframe) == 2


def test_a_failure_is_told_without_a_traceback_and_can_be_tried_again(
    nothing_kept: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ic.estimators.LastLayer, "fit", lambda self, study: [][475])
        app = start("mislabels.py")
    (error,) = app.error
    assert "IndexError" in error.value
    assert "list index" not in error.value
    assert "list index out of range" in caplog.text
    app.button(key="again_mislabels").click().run()
    assert fine(settled(app))
    assert gallery(app, "flagged")["id"]


def test_the_next_mistakes_are_answered_ahead_where_one_sweep_serves_them_all(
    nothing_kept: None, demo: ic.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ic.estimators.all_estimators()
    solvers = {c.name for c in kinds if c.solves_each_query}
    assert solvers == {c.name for c in kinds if c.cost.startswith("M x")}  # as many sweeps as images
    wrong = demo.misclassified().tolist()

    def answered() -> set[int]:
        return {i for scores in results.known(demo) if scores.test_ids is not None for i in scores.test_ids.tolist()}

    with monkeypatch.context() as patch:
        patch.setattr(ic.estimators.LastLayer, "solves_each_query", True)
        start("explain.py", test=str(wrong[3]))
        assert answered() == {wrong[3], surest(demo, demo.misclassified())}  # the one on Overview comes first
    start("explain.py", test=str(wrong[3]))
    assert answered() == set(wrong[: results.BLOCK])
    kept = len(work.results())
    app = start("explain.py", test=str(wrong[5]))
    assert len(work.results()) == kept  # the next one is there
    scores = ic.estimators.get(QUICK).fit(demo).influence([wrong[5]])
    same(app.dataframe[0].value, scores.harmful(wrong[5], 5))


def test_curves_of_other_estimators_flag_as_many(demo: ic.Study) -> None:
    app = start("mislabels.py", estimator=f"{QUICK},deepknn", flag="50")
    figures = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    for figure in figures[:3]:
        named = " ".join(str(trace.get("name")) for trace in figure["data"])
        assert QUICK in named
        assert "deepknn" in named
    assert gallery(app, "flagged")["id"] == detection(demo).scores.top(k=50)["train_id"].tolist()  # by the first


def test_a_curve_that_comes_while_the_page_is_drawn_is_drawn(
    nothing_kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    votes, roc = ic.estimators.DeepKNN._votes, ic.figures.roc

    def late(*arguments: Any) -> Any:
        assert gate.wait(LONG)
        return votes(*arguments)

    def drawn(detections: Any) -> Any:
        gate.set()
        work.wait(list(work._tasks.values()), LONG)
        return roc(detections)

    monkeypatch.setattr(ic.estimators.DeepKNN, "_votes", late)
    monkeypatch.setattr(ic.figures, "roc", drawn)
    app = begun("mislabels.py", estimator=f"{QUICK},deepknn", flag="50")
    assert gate.is_set()
    assert "deepknn" in app.get("plotly_chart")[0].proto.spec


def test_estimators_side_by_side_share_their_passes(nothing_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    sweeping = sys.modules["influence_core.gradients.sweep"]  # the name is a function in the package
    real = sweeping._swept

    def counted(model: Any, loss: Any, data: Any, consumers: Any, *rest: Any) -> Any:
        made.append(len(consumers))
        return real(model, loss, data, consumers, *rest)

    monkeypatch.setattr(sweeping, "_swept", counted)
    app = settled(start("explain.py", estimator="randproj,ekfac", test="17"))
    assert all(ic.estimators.get(name).title in texts(app) for name in ("randproj", "ekfac"))
    assert max(made) > 1  # one pass with the consumers of both


def test_nothing_is_computed_for_what_came_with_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []
    monkeypatch.setattr(stored, "compute", computed.append)
    monkeypatch.setattr(results, "AHEAD", 1e9)  # however slow this machine is
    app = settled(begun("explain.py", estimator="ekfac", test="475"))
    assert len(app.dataframe) == 2
    work.wait(list(work._tasks.values()), LONG)  # what fills in, such as the mistakes beside it
    assert not computed
