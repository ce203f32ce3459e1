"""Answers that last, work of other processes on the pages, and the page of jobs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parts import results, stored  # type: ignore[import-not-found]
from streamlit.testing.v1 import AppTest

import influence_core as ic
from influence_core.jobs.processes import this
from influence_core.jobs.table import Table
from influence_core.store.run import beside

from .runner import QUICK, begun, gallery, same, settled, start, texts, work

pytestmark = pytest.mark.usefixtures("patience", "nothing_kept")
TEST = 475


def ask(study: ic.Study, what: str = "influence", estimator: Any = QUICK) -> ic.store.Request:
    return ic.store.Request.of(study, estimator, what, test=[TEST] if what == "influence" else None)


def entered(store: ic.store.Store, request: ic.store.Task, state: str, **facts: Any) -> ic.jobs.Row:
    """A job as its worker would have left it; a running one is computed by this process."""
    table = Table(store.path)
    row = ic.jobs.Row(
        id=request.key,
        title=request.title,
        study=str(request.study.home()[0].resolve()),
        plugin=None,
        plugin_sha256=None,
        module=request.module,
        spec=json.dumps(request.spec()),
        threads=1,
        budget=store.budget,
        keep=facts.get("keep", True),
    )
    table.enter(replace(row, **{name: facts.pop(name) for name in ("study",) if name in facts}))
    if state == "queued":
        return found(store, request)
    taken = table.claim(99, this(), worker=True)
    assert taken is not None
    table.note(taken, step=facts.get("step", request.title), done=1, total=4, seconds_left=90.0)
    if state != "running":
        table.end(taken, state, facts.get("error"))  # type: ignore[arg-type]  # a literal
    return found(store, request)


def found(store: ic.store.Store, request: ic.store.Task) -> ic.jobs.Row:
    return next(row for row in ic.jobs.rows(store) if row.id == request.key)


class Enough(Exception):
    pass


def begin(store: ic.store.Store, request: ic.store.Request, shards: int) -> None:
    """Compute some shards and no more."""

    def told(what: str, done: int, total: int) -> None:
        if store.progress(request).done >= shards:
            raise Enough

    with pytest.raises(Enough), ic.progress.listen(told):
        store.compute(request)


def jobs_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(Path(__file__).parents[2] / "pages" / "main.py"), default_timeout=120)
    app.query_params.update(query)
    return app.switch_page("jobs.py").run()  # and no other page before, which would ask for something


def labels(app: AppTest) -> set[str]:
    return {button.label for button in app.main.button}


def links(app: AppTest) -> dict[str, str]:
    """Of the page itself."""
    return {
        element.proto.label: f"{element.proto.page}?{element.proto.query_string}"
        for element in app.main.get("page_link")
    }


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that has nothing in memory and cannot compute."""

    def restart() -> None:
        work._kept.clear()
        work._parts.clear()

        def refuses(*_: Any, **__: Any) -> Any:
            raise AssertionError("computed again")

        for name in ("fit", "influence", "mislabel_scores", "label_influence"):
            monkeypatch.setattr(ic.estimators.LastLayer, name, refuses)

    return restart


# --- answers that last


def test_a_restarted_server_finds_what_was_computed(demo: ic.Study, restarted: Any) -> None:
    first = {page: texts(start(page, test=str(TEST))) for page in ("explain.py", "mislabels.py", "relabel.py")}
    assert {one.kind for one in stored.store().entries()} == {"answer", "fit"}
    restarted()
    for page, shown in first.items():
        app = start(page, test=str(TEST))
        assert not app.error
        assert texts(app) == shown


def test_answers_beside_a_study_file_are_found_and_left_alone(
    demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: Any, empty_store: ic.store.Store
) -> None:
    file = demo.replaced(name="with results").save(tmp_path / "mine")
    study = ic.Study.load(file)
    ic.store.Store(file.parent / "results").compute(ask(study))
    before = sorted(path for path in (file.parent / "results").rglob("*"))
    monkeypatch.setattr(sys, "argv", ["app.py", "--study", str(file)])
    monkeypatch.setattr(sys.modules["parts.studies"], "_sources", {})
    monkeypatch.setattr(ic.store, "beside", beside)
    restarted()
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    assert len(gallery(app, f"explain_{QUICK}_harmful")["id"]) == 5
    assert sorted(path for path in (file.parent / "results").rglob("*")) == before


@pytest.mark.filterwarnings("ignore::influence_core.DamageWarning")
def test_what_is_damaged_is_computed_again(demo: ic.Study, empty_store: ic.store.Store) -> None:
    scores = ic.estimators.LastLayer().fit(demo).influence([TEST])
    empty_store.compute(ask(demo))
    (file,) = empty_store.path.rglob("values.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    app = start("explain.py", test=str(TEST))
    same(app.dataframe[0].value, scores.harmful(TEST, 5))


def test_an_estimator_whose_answer_is_there_is_recommended_whatever_it_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demo = ic.Study.load(ic.demo.BUNDLED)  # as nobody has saved it elsewhere yet
    monkeypatch.setattr(ic.store, "beside", beside)
    costly = ic.estimators.recommended(demo, "mislabel_scores", seconds=1e9)
    quick = ic.estimators.recommended(demo, "mislabel_scores", seconds=0.0)
    assert stored.has(demo, "mislabel_scores", costly)  # it came with the demo
    assert ic.estimators.recommended(demo, "mislabel_scores", 0.0, lambda name: name == costly) == costly != quick


# --- jobs on the pages


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[ic.store.Request]:
    """What became jobs, none of which begins."""
    asked: list[ic.store.Request] = []

    def submit(request: ic.store.Request, *, store: ic.store.Store, **how: Any) -> ic.jobs.Job:
        assert (how["keep"], how["patience"]) == (False, stored.PATIENCE)
        asked.append(request)
        entered(store, request, "running")
        return ic.jobs.Job(store, request.key, request)

    monkeypatch.setattr(ic.jobs, "submit_task", submit)
    return asked


def test_what_takes_longer_becomes_a_job(
    monkeypatch: pytest.MonkeyPatch, submitted: list[ic.store.Request], demo: ic.Study
) -> None:
    monkeypatch.setattr(results, "IN_SERVER", -1.0)
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    assert submitted[-1].key == ask(demo).key
    assert not work._tasks
    assert f"{submitted[-1].title} · 1 of 4 · about 2 min left" in texts_of_bars(app)
    assert "Stop" in labels(app)
    assert f"job={submitted[-1].key[:12]}" in links(app)["Job"]
    count = len(submitted)
    app.run()
    assert len(submitted) == count  # it is found, not asked for again
    stored.store().compute(submitted[-1])
    app.run()
    assert len(gallery(app, f"explain_{QUICK}_harmful")["id"]) == 5


def texts_of_bars(app: AppTest) -> str:
    return "\n".join(element.proto.text for element in app.main.get("progress")).replace("\\", "")


def test_what_no_other_process_can_do_is_done_here_and_says_so(monkeypatch: pytest.MonkeyPatch, demo: ic.Study) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise ic.NotSupported("its loss is known to this one alone")

    monkeypatch.setattr(ic.jobs, "submit_task", refuses)
    monkeypatch.setattr(results, "IN_SERVER", -1.0)
    monkeypatch.setattr(work, "PATIENCE", 0.0)
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    assert "It ends with this server: its loss is known to this one alone" in texts(app)
    assert len(settled(app).dataframe) == 2


def test_a_job_shows_what_it_has_so_far(demo: ic.Study, empty_store: ic.store.Store) -> None:
    request = ask(demo)
    begin(empty_store, request, 3)
    entered(empty_store, request, "running")
    partial = empty_store.partial(request)
    assert partial is not None
    assert len(partial.values) < len(demo.train)
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    share = round(100 * len(partial.values) / len(demo.train))
    assert f"So far, of {share} % of the training images · {ic.jobs.stability(partial, 10, 1000)}" in texts(app)
    shown = gallery(app, f"explain_{QUICK}_harmful")["id"]
    assert shown == partial.harmful(TEST, 5)["train_id"].tolist()
    assert not app.dataframe  # tables, curves and caveats are of whole answers


@pytest.mark.parametrize(("state", "words"), [("failed", "A stone was in the way"), ("lost", "Its process ended")])
def test_a_job_that_broke_off_is_told_with_its_log(
    state: str, words: str, demo: ic.Study, empty_store: ic.store.Store
) -> None:
    request = ask(demo)
    entered(empty_store, request, state, error=words[:1].lower() + words[1:])
    Table(empty_store.path).log(request.key).write_text("here is where\n")
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    assert words in app.error[0].value
    assert "here is where" in [code.value for code in app.code]
    assert "Resume" in labels(app)


def test_a_cancelled_job_stays_so_and_one_that_nobody_wanted_begins_again(
    demo: ic.Study, empty_store: ic.store.Store
) -> None:
    request = ask(demo)
    row = entered(empty_store, request, "cancelled")
    app = begun("explain.py", estimator=QUICK, test=str(TEST))
    assert f"{request.estimator.title}** was stopped" in texts(app)
    assert "Resume" in labels(app)
    ic.jobs.clean(empty_store)
    entered(empty_store, request, "cancelled", error=row.unwanted)
    assert len(settled(app.run()).dataframe) == 2


# --- the page of jobs


def test_without_jobs_it_says_what_they_are() -> None:
    app = jobs_page()
    assert not app.exception
    assert "No jobs yet. What takes longer than a few seconds becomes a job" in texts(app)
    assert any("ic.jobs.submit" in code.value for code in app.code)
    assert "Nothing is stored yet" in texts(app)


def test_running_ones_come_first_and_lead_to_their_page(demo: ic.Study, empty_store: ic.store.Store) -> None:
    scores = ask(demo, "mislabel_scores")
    entered(empty_store, ask(demo), "running")
    entered(empty_store, scores, "done")
    app = jobs_page()
    table = app.dataframe[0].value
    assert table["state"].tolist() == ["running", "done"]
    assert table["progress"].tolist() == [25, 100]
    assert table["left"].tolist()[0] == "2 min"
    assert table["study"].str.strip("\u2068\u2069").tolist() == ["digits", "digits"]
    assert {"Cancel", "Clear 1 that ended"} <= labels(app)
    assert not {"Resume", "Remove"} & labels(app)
    assert "explain" in links(app)["Open"]
    assert all(part in links(app)["Open"] for part in ("run=digits", f"estimator={QUICK}", f"test={TEST}"))
    app = jobs_page(job=scores.key[:7])
    assert "mislabels" in links(app)["Open"]
    assert "Remove" in labels(app)


def test_cancel_and_remove_do_so(demo: ic.Study, empty_store: ic.store.Store) -> None:
    request = ask(demo)
    entered(empty_store, request, "queued")
    app = jobs_page()
    app.button(key="cancel_job").click().run()
    assert found(empty_store, request).state == "cancelled"
    app.button(key="remove_job").click().run()
    assert ic.jobs.rows(empty_store) == []
    assert "No jobs yet" in texts(app)


def test_one_that_failed_says_why(demo: ic.Study, empty_store: ic.store.Store) -> None:
    request = ask(demo)
    entered(empty_store, request, "failed", error="a stone was in the way")
    Table(empty_store.path).log(request.key).write_text("here is where\n")
    app = jobs_page()
    assert app.error[0].value == "A stone was in the way"
    assert "here is where" in [code.value for code in app.code]
    assert {"Resume", "Remove"} <= labels(app)


def test_a_link_to_a_job_that_is_none_is_told(demo: ic.Study, empty_store: ic.store.Store) -> None:
    assert "There is no job “nonsense”" in texts(jobs_page(job="nonsense"))
    entered(empty_store, ask(demo), "done")
    app = jobs_page(job="nonsense")
    assert "There is no job in this store that begins with “nonsense”" in texts(app)
    assert len(app.dataframe[0].value) == 1


def test_what_no_page_shows_is_had_from_python(demo: ic.Study, empty_store: ic.store.Store) -> None:
    for request in (ask(demo, "self_influence"), ask(demo, estimator=ic.estimators.LastLayer(damping=0.2))):
        entered(empty_store, request, "done")
        app = jobs_page(job=request.key[:12])
        assert "Open" not in links(app)
        assert f"ic.jobs.get({request.key[:12]!r}).wait()" in [code.value for code in app.code]


def test_a_study_that_is_not_open_here_says_how_to_open_it(
    demo: ic.Study, empty_store: ic.store.Store, tmp_path: Path
) -> None:
    file = demo.replaced(name="elsewhere", weight_decay=0.1).save(tmp_path / "else where")
    request = ask(ic.Study.load(file))
    entered(empty_store, request, "done")
    app = jobs_page()
    assert "Open" not in links(app)
    assert f"influence app '{file.parent}'" in [code.value for code in app.code]


def test_the_store_is_listed_checked_and_emptied(demo: ic.Study, empty_store: ic.store.Store) -> None:
    request = ask(demo)
    empty_store.compute(request)
    app = jobs_page()
    table = next(frame.value for frame in app.dataframe if "kind" in frame.value)
    assert set(table["kind"]) == {"result", "fitted estimator"}
    assert int(table["size"].sum()) == empty_store.usage()
    app.button(key="verify_store").click().run()
    assert app.success[0].value == "Every file is as it was written."
    (file,) = empty_store.path.rglob("values.npy")
    file.write_bytes(b"nothing")
    app.button(key="verify_store").click().run()
    assert "1 files are damaged" in texts(app)
    app.number_input(key="store_most").set_value(0.0)
    app.button(key="evict_results").click().run()
    assert empty_store.entries() == []
