"""Every page through Streamlit's own test runner: it draws, it refuses clearly, and its Python makes what it shows."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from cachetools import LRUCache
from streamlit.testing.v1 import AppTest

import influence_core as ic

MAIN = Path(__file__).parents[2] / "pages" / "main.py"
PAGES = ["overview.py", "explain.py", "mislabels.py", "relabel.py"]


def start(page: str | None = None, **query: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    return app.switch_page(page).run() if page else app


def texts(app: AppTest) -> str:
    shown = [*app.title, *app.markdown, *app.caption, *app.error, *app.info]
    return "\n".join(str(element.value) for element in shown)


@pytest.mark.parametrize(
    ("page", "name", "method"),
    [
        ("overview.py", "tracin", "influence"),
        ("explain.py", "lastlayer", "influence"),
        ("mislabels.py", "loss", "mislabel_scores"),
        ("relabel.py", "deepknn", "mislabel_scores"),
    ],
)
def test_a_page_says_how_far_to_trust_its_numbers(page: str, name: str, method: str, demo: ic.Study) -> None:
    fitted = ic.estimators.get(name).fit(demo)
    scores = fitted.influence([475]) if method == "influence" else fitted.mislabel_scores()
    assert scores.caveats()
    shown = texts(start(page, estimator=name)).replace("\\", "")
    assert f"**How far to trust it** · {' '.join(scores.caveats())}" in shown


def test_the_estimators_to_choose_are_those_with_scores_to_show() -> None:
    box = start().sidebar.selectbox(key="estimator")
    kinds = {c.name: c.gives() for c in ic.estimators.all_estimators() if c.__module__.startswith("influence_core.")}
    explain = {name for name, gives in kinds.items() if "influence" in gives}
    detect = {name for name, gives in kinds.items() if "mislabel_scores" in gives} - explain
    shown = [name for name in box.options if name in kinds]
    assert shown[0] == "tracin"
    assert set(shown[: len(explain)]) == explain
    assert set(shown[len(explain) :]) == detect


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("estimator", ["tracin", "gex", "fvm", "samgif", "loss", "deepknn", "confidentlearning"])
def test_every_page_draws_with_every_estimator(page: str, estimator: str) -> None:
    app = start(page, estimator=estimator)
    assert not app.exception
    assert not app.error, texts(app)
    assert app.sidebar.selectbox(key="estimator").value == estimator
    refused = "influence" not in ic.estimators.get(estimator).gives() and page in ("overview.py", "explain.py")
    assert bool(app.info) == refused, texts(app)
    if refused:
        assert "TracIn" in app.info[0].value


def test_a_system_is_solved_for_the_image_on_show_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours in the list of mistakes come along only where a sweep serves them all."""
    kinds = ic.estimators.all_estimators()
    solvers = {c.name for c in kinds if c.solves_each_query}
    assert solvers == {c.name for c in kinds if c.cost.startswith("M x")}  # as many sweeps as images
    app = start("explain.py")
    results, study = sys.modules["parts.results"], app.session_state["choice"].study
    for declared, columns in ((False, results.BLOCK), (True, 1)):
        monkeypatch.setattr(results, "_kept", LRUCache(results.KEPT))
        monkeypatch.setattr(ic.estimators.TracIn, "solves_each_query", declared)
        scores = results.influence(study, "tracin", int(study.misclassified()[3]))
        assert scores.values.shape[1] == min(columns, len(study.misclassified()))


def test_overview_says_three_numbers(demo: ic.Study) -> None:
    app = start()
    assert [m.label for m in app.metric] == ["Test accuracy", "Suspect training labels", "Minutes to review them"]
    assert app.metric[0].value == f"{demo.accuracy():.1%}"
    flagged = ic.applications.detect(demo, ic.estimators.TracIn().fit(demo).mislabel_scores()).flagged
    assert app.metric[1].value == str(len(flagged))


def test_what_is_kept_is_computed_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    results = sys.modules["parts.results"]
    assert results._kept.maxsize == results.KEPT
    monkeypatch.setattr(results, "_kept", LRUCache(results.KEPT))
    made: list[int] = []
    together = threading.Barrier(4)

    def work() -> int:
        made.append(1)
        time.sleep(0.2)
        return len(made)

    def ask(_: int) -> int:
        together.wait()
        return int(results.once("a test", work, "Working"))

    with ThreadPoolExecutor(4) as tabs:
        assert list(tabs.map(ask, range(4))) == [1, 1, 1, 1]
    assert made == [1]
    for i in range(results.KEPT):
        results.once(("another", i), lambda: 0, "Working")
    assert len(results._kept) == results.KEPT
    assert "a test" not in results._kept
    assert results.once("a test", work, "Working") == 2
    assert not results._locks  # and no lock is left behind


def test_what_fails_is_tried_again() -> None:
    start()
    once = sys.modules["parts.results"].once
    with pytest.raises(ZeroDivisionError):
        once("a failure", lambda: 1 // 0, "Working")
    assert once("a failure", lambda: 3, "Working") == 3


def test_explain_shows_the_ranking_of_the_library(demo: ic.Study) -> None:
    app = start("explain.py")
    app.number_input(key="test").set_value(17).run()
    scores = ic.estimators.TracIn().fit(demo).influence([17])
    pd.testing.assert_frame_equal(app.dataframe[0].value, scores.harmful(17, 5), check_dtype=False)
    pd.testing.assert_frame_equal(app.dataframe[1].value, scores.helpful(17, 5), check_dtype=False)


def test_the_class_filter_narrows_the_relabel_table() -> None:
    app = start("relabel.py")
    before = app.dataframe[0].value
    app.sidebar.selectbox(key="class").select("3").run()
    after = app.dataframe[0].value
    assert 0 < len(after) < len(before)
    assert set(after["given_label"]) == {"3"}


def test_the_threshold_decides_how_many_are_flagged() -> None:
    app = start("mislabels.py")
    app.slider(key="flag").set_value(7).run()
    assert app.metric[0].value == "7"


def test_the_python_of_a_page_makes_the_same_table() -> None:
    app = start("relabel.py")
    lines = next(c.value for c in app.code if "applications.relabel" in c.value)
    kept = "\n".join(line for line in lines.splitlines() if "csv" not in line)
    names: dict[str, pd.DataFrame] = {}
    exec(kept, names)
    shown = app.dataframe[0].value.drop(columns="picture")
    pd.testing.assert_frame_equal(names["table"][shown.columns].reset_index(drop=True), shown, check_dtype=False)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_every_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = start(page)
    monkeypatch.chdir(tmp_path)
    ours = [c.value for c in app.code if c.value.startswith("import influence_core")]
    assert ours
    for lines in ours:
        exec(lines, {})


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.target)!r}, 'w').close()",))


def broken(folder: Path, kind: str, demo: ic.Study) -> str:
    """Spoil a saved study; returns what the message has to name."""
    file = demo.save(folder)
    weights, train = next(folder.glob("model-*")), next(folder.glob("train-*"))
    if kind == "missing":
        weights.unlink()
        return weights.name
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
        return weights.name
    text = "".join(
        line for line in file.read_text().splitlines(keepends=True) if not line.startswith(("checksum", "sha256"))
    )
    file.write_text(text)  # as a person would who changes the study on purpose
    if kind == "pickle":
        (folder / "model.pt").write_bytes(pickle.dumps({"w": Bomb(folder / "ran")}))
        file.write_text(text.replace(weights.name, "model.pt"))
        return "model.pt"
    if kind == "key":
        file.write_text(text.replace("weights =", "wights ="))
        return "model.wights"
    tensors = ic.models.load_tensors(train)
    if kind == "label":
        tensors["labels"][5] = 10
    else:
        tensors["inputs"] = torch.nn.functional.pad(tensors["inputs"], (0, 1))
    ic.models.save_tensors(train, tensors)
    return "sample 5 has label 10" if kind == "label" else "(1, 8, 9)"


@pytest.mark.parametrize("kind", ["missing", "truncated", "pickle", "key", "label", "size"])
def test_a_broken_study_is_one_clear_sentence(
    kind: str, demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = broken(tmp_path, kind, demo)
    app = start()
    app.text_input[0].set_value(str(tmp_path))
    next(b for b in app.button if b.label == "Open").click().run()
    assert not app.exception
    assert len(app.error) == 1
    message = app.error[0].value.replace("\\", "")
    assert named in message
    assert "Traceback" not in message
    assert not (tmp_path / "ran").exists()


def test_a_study_of_ones_own_opens_and_stays(demo: ic.Study, tmp_path: Path) -> None:
    demo.replaced(name="my own <b>study</b>").save(tmp_path / "mine")
    app = start()
    app.text_input[0].set_value(str(tmp_path / "mine"))
    next(b for b in app.button if b.label == "Open").click().run()
    assert not app.exception
    assert app.sidebar.selectbox(key="run").value == "mine"
    assert "my own" in texts(app)


def test_mistakes_are_explained_without_a_validation_set(demo: ic.Study, tmp_path: Path) -> None:
    demo.replaced(validation=None).save(tmp_path / "no_validation")
    app = start(estimator="samgif")
    app.text_input[0].set_value(str(tmp_path / "no_validation"))
    next(b for b in app.button if b.label == "Open").click().run()
    assert app.sidebar.selectbox(key="run").value == "no_validation"
    assert not app.error, texts(app)
    assert not app.exception
    assert [m.label for m in app.metric] == ["Test accuracy"]  # and no suspects
    app.switch_page("mislabels.py").run()
    assert "no validation set" in texts(app)


def test_a_broken_study_of_the_command_line_leaves_the_others(
    demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = sys.modules["parts.studies"]
    monkeypatch.setattr(studies, "_sources", {})
    lost = next(demo.save(tmp_path).parent.glob("test-*"))
    lost.unlink()
    monkeypatch.setattr(sys, "argv", ["app.py", "--study", str(tmp_path)])
    app = start()
    assert not app.exception
    assert lost.name in app.error[0].value.replace("\\", "")
    app.sidebar.selectbox(key="run").select("digits").run()
    assert not app.error
    assert len(app.metric) == 3
