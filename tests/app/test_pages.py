"""Every page through Streamlit's own test runner: it draws, it refuses clearly, and its Python makes what it shows."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import influence_core as ic

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "pages" / "main.py"
PAGES = ["overview.py", "explain.py", "mislabels.py", "relabel.py", "what_if.py"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages wait for their answers: the test runner draws a page once, and no fragment looks again."""
    monkeypatch.syspath_prepend(str(ROOT / "pages"))
    from parts import work

    monkeypatch.setattr(work, "PATIENCE", 120.0)


def start(page: str | None = None, **query: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=180)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if page is None or page == "overview.py":
        return app
    for key, value in query.items():
        app.query_params[key] = value
    return app.switch_page(page).run()


def texts(app: AppTest) -> str:
    shown = [*app.title, *app.markdown, *app.caption, *app.error, *app.info, *app.warning]
    return "\n".join(str(element.value) for element in shown).replace("\\", "")


def choice(app: AppTest) -> Any:
    return app.session_state["choice"]


def otsu(study: ic.Study, name: str) -> ic.applications.Detection:
    return ic.applications.detect(study, ic.estimators.get(name).fit(study).mislabel_scores())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("estimator", ["lastlayer", "tracin", "loss", "deepknn", "samgif", "lastlayer,loss,trak"])
def test_every_page_draws_with_every_estimator(page: str, estimator: str, demo: ic.Study) -> None:
    app = start(page, estimator=estimator)
    assert not app.exception
    assert not app.error, texts(app)
    explains = page in ("overview.py", "explain.py", "what_if.py")
    what = "influence" if explains else "mislabel_scores"
    unable = [n for n in estimator.split(",") if what not in ic.estimators.get(n).gives()]
    assert bool(app.info) == bool(unable), texts(app)
    if unable:
        assert ic.estimators.get(unable[0]).title in texts(app)
    able = tuple(n for n in estimator.split(",") if n not in unable) or (ic.estimators.recommended(demo, what),)
    assert (choice(app).explainers if explains else choice(app).detectors) == able


@pytest.mark.usefixtures("empty_store")
def test_the_best_by_evidence_answers_where_nobody_chose(demo: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from parts import results

    monkeypatch.setattr(results, "BY_DEFAULT", 0.0)  # nothing begins: which are chosen is what is asked here
    app = start("explain.py")
    assert choice(app).explainers == ("ekfac",)
    assert choice(app).detectors == (ic.estimators.recommended(demo, "mislabel_scores"),)
    assert app.sidebar.multiselect(key="estimators").value == ["ekfac"]
    assert "estimator" not in app.query_params
    told = texts(app)  # what it costs, before it starts
    assert "needs about" in told or "needs under" in told
    assert "of memory" in told
    assert any(b.label == "Start" for b in app.button)


def test_the_estimators_to_choose_are_grouped_and_say_what_they_are_good_for() -> None:
    app = start(estimator="lastlayer")
    table = ic.estimators.available().set_index("name")
    shown = list(app.sidebar.multiselect(key="estimators").options)
    by_title = dict(zip(table["title"], table["group"], strict=True))
    groups = [by_title[title.split(" · ")[0]] for title in shown]
    order = ["explains and detects", "explains", "detects"]
    assert groups == sorted(groups, key=order.index)
    assert set(groups) == set(table["group"]) & set(order)
    listed = texts(app)
    assert all(line in listed for name, line in table["good_for"].items() if table["group"][name] in order)


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
    assert f"**How far to trust it** · {' '.join(scores.caveats())}" in texts(start(page, estimator=name))


def test_overview_says_three_numbers(demo: ic.Study) -> None:
    app = start(estimator="lastlayer")
    assert [m.label for m in app.metric] == ["Test accuracy", "Suspect training labels", "Minutes to review them"]
    assert app.metric[0].value == f"{demo.accuracy():.1%}"
    assert app.metric[1].value == str(len(otsu(demo, "lastlayer").flagged))
    cut = start(estimator="lastlayer", flag="41")
    assert cut.metric[1].value == "41"


@pytest.mark.parametrize(
    ("page", "key", "value", "words"),
    [
        ("explain.py", "test", "99999", "There is no test image “99999”: it is a number from 0 to 496."),
        ("explain.py", "cell", "3,99", "The square “3,99” makes no sense"),
        ("overview.py", "class", "nonsense", "There is no class “nonsense”"),
        ("overview.py", "run", "nonsense", "There is no study “nonsense”"),
        ("mislabels.py", "flag", "0", "There is no number of images to flag “0”"),
        ("mislabels.py", "order", "x", "order=x makes no sense"),
        ("explain.py", "k", "999", "it is a number from 1 to 20"),
        ("relabel.py", "rows", "x", "rows=x makes no sense"),
        ("relabel.py", "seeds", "0", "There is no number of trainings “0”: it is a number from 1 to 10."),
        ("what_if.py", "set", "x", "set=x makes no sense: choose one of flagged, class, harmful"),
        ("what_if.py", "action", "x", "action=x makes no sense"),
        ("what_if.py", "count", "0", "There is no number of images to change “0”"),
        ("explain.py", "image", "train-99999", "There is no train image 99999"),
    ],
)
def test_what_a_link_says_wrongly_is_told_in_a_sentence(page: str, key: str, value: str, words: str) -> None:
    app = start(page, estimator="lastlayer", **{key: value})
    assert not app.exception
    (told,) = [warning for warning in app.warning if warning.icon == ":material/link_off:"]
    assert words in told.value.replace("\\", "")
    unknown = start(page, estimator="nonsense,lastlayer")
    assert "There is no estimator “nonsense” here" in texts(unknown)


def test_explain_shows_the_ranking_of_the_library(demo: ic.Study) -> None:
    app = start("explain.py", estimator="lastlayer", test="17", k="7")
    scores = ic.estimators.LastLayer().fit(demo).influence([17])
    pd.testing.assert_frame_equal(app.dataframe[0].value, scores.harmful(17, 7), check_dtype=False)
    pd.testing.assert_frame_equal(app.dataframe[1].value, scores.helpful(17, 7), check_dtype=False)


def test_several_estimators_are_compared_as_the_library_does(demo: ic.Study) -> None:
    names = ["lastlayer", "randproj", "trak"]
    app = start("explain.py", estimator=",".join(names), test="475")
    scores = [ic.estimators.get(n).fit(demo).influence([475]) for n in names]
    together = ic.evaluation.agreement(scores, 475, 5)
    pd.testing.assert_frame_equal(app.dataframe[0].value, together.table, check_dtype=False)
    assert all(sentence in texts(app) for sentence in together.sentences())


def test_a_right_answer_is_told_otherwise_than_a_mistake(demo: ic.Study) -> None:
    right = int((demo.predictions() == demo.test.labels).nonzero()[0])
    wrong = texts(start("explain.py", estimator="lastlayer", test="475"))
    other = texts(start("explain.py", estimator="lastlayer", test=str(right)))
    assert "pushed the model to its mistake" in wrong
    assert "made the answer right" not in wrong
    assert "pushed the model" not in other
    assert "made the answer right" in other


def test_a_class_without_mistakes_explains_nothing_by_itself(demo: ic.Study) -> None:
    wrong = set(demo.test.labels[demo.misclassified()].tolist())
    fine = next(k for k in range(10) if k not in wrong)
    app = start("explain.py", estimator="lastlayer", **{"class": demo.class_names[fine]})
    assert "No mistakes in this class" in texts(app)
    assert "Most harmful" not in texts(app)
    asked = int((demo.test.labels == fine).nonzero()[0])
    app.number_input(key="test").set_value(asked).run()
    assert f"Test image {asked}" in texts(app)
    overview = start(estimator="lastlayer", **{"class": demo.class_names[fine]})
    assert "right. Choose another class" in texts(overview)
    assert overview.metric[0].value == "100.0%"


def test_the_class_filter_narrows_figures_and_gallery(demo: ic.Study) -> None:
    whole = otsu(demo, "lastlayer")
    mine = whole.within((demo.train.labels == 3).nonzero().flatten())
    assert mine.auc != whole.auc
    shown = texts(start("mislabels.py", estimator="lastlayer", **{"class": "3"}))
    assert f"**{len(mine.flagged)} flagged**" in shown
    assert f"AUC {100 * mine.auc:.1f} ({mine.auc_interval})" in shown
    assert f"**Flagged images** · {len(mine.flagged)}" in shown
    table = start("relabel.py", estimator="lastlayer", **{"class": "3"}).dataframe[0].value
    assert set(table["given_label"]) == {"3"}
    assert len(table) == len(mine.flagged)


def test_budget_threshold_and_precision_are_one_cut(demo: ic.Study) -> None:
    found = otsu(demo, "lastlayer")
    app = start("mislabels.py", estimator="lastlayer")
    app.number_input(key="budget").set_value(30).run()
    assert app.query_params["flag"] == "30"
    assert float(app.text_input(key="threshold").value) == pytest.approx(found.budget(30).threshold, rel=1e-5)
    app.text_input(key="threshold").set_value("0.05").run()
    above = int((found.scores.values > 0.05).sum())
    assert app.query_params["flag"] == str(above)
    assert app.number_input(key="budget").value == above
    app.number_input(key="precision").set_value(90.0).run()
    assert app.query_params["flag"] == str(len(found.at_precision(0.9).flagged))
    before = app.query_params["flag"]
    app.text_input(key="threshold").set_value("much").run()
    assert app.query_params["flag"] == before
    assert "“much” is no threshold here" in texts(app)


def test_the_flagged_set_is_the_same_on_every_page(demo: ic.Study) -> None:
    found = otsu(demo, "lastlayer").budget(37)
    app = start("relabel.py", estimator="lastlayer", flag="37")
    assert set(app.dataframe[0].value["index"]) == set(found.flagged.tolist())
    assert "one of the 37 labels" in texts(start("explain.py", estimator="lastlayer", flag="37"))


def test_a_panel_tells_the_rank_under_what_is_computed(demo: ic.Study) -> None:
    scores = ic.estimators.LastLayer().fit(demo)
    column, suspicion = scores.influence([17]).column(17), scores.mislabel_scores().values
    first = int(column.argmin())
    app = start("explain.py", estimator="lastlayer", test="17", image=f"train-{first}")
    tables = [frame.value for frame in app.dataframe]
    facts = next(t for t in tables if list(t.columns) == ["what", "value"]).set_index("what")["value"]
    assert facts["id"] == f"train-{first:06d}"
    assert facts["given label"] == demo.class_names[int(demo.train.labels[first])]
    ranks = next(t for t in tables if "question" in t.columns)
    mine = ranks[ranks["estimator"] == "Last layer"].set_index("question")["rank"]
    assert mine["harmful to test image 17"] == 1
    assert mine["suspicion"] == int((suspicion > suspicion[first]).sum()) + 1


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
    monkeypatch.setattr(sys, "argv", ["app.py", "--root", str(tmp_path)])
    named = broken(tmp_path, kind, demo)
    app = start()
    app.text_input[0].set_value(str(tmp_path))
    next(b for b in app.button if b.label == "Open").click().run()
    assert not app.exception
    assert len(app.error) == 1
    shown = app.error[0].value
    message = shown.replace("\\", "")
    assert named in message
    assert "Traceback" not in message
    assert not (tmp_path / "ran").exists()
    assert [error.value for error in app.run().error] == [shown], "it stays until another one is opened"


def test_a_study_of_ones_own_opens_and_stays(demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--root", str(tmp_path)])
    demo.replaced(name="my own <b>study</b>").save(tmp_path / "mine")
    app = start()
    app.text_input[0].set_value(str(tmp_path / "none"))
    next(b for b in app.button if b.label == "Open").click().run()
    assert len(app.error) == 1
    app.text_input[0].set_value(str(tmp_path / "mine"))
    next(b for b in app.button if b.label == "Open").click().run()
    assert not app.exception
    assert app.sidebar.selectbox(key="run").value == "mine"
    assert "my own" in texts(app)


def test_mistakes_are_explained_without_a_validation_set(
    demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--root", str(tmp_path)])
    demo.replaced(validation=None).save(tmp_path / "no_validation")
    app = start(estimator="samgif")
    app.text_input[0].set_value(str(tmp_path / "no_validation"))
    next(b for b in app.button if b.label == "Open").click().run()
    assert app.sidebar.selectbox(key="run").value == "no_validation"
    assert not app.error, texts(app)
    assert not app.exception
    assert choice(app).explainers == ("samgif",)
    from parts import results

    monkeypatch.setattr(results, "BY_DEFAULT", 0.0)  # who answers instead is what is asked here, and not the answer
    app.query_params["estimator"] = "samgif"
    app.switch_page("mislabels.py").run()
    assert "finds no wrong labels on this study: that needs a validation set" in texts(app)
    assert choice(app).detectors == (ic.estimators.recommended(choice(app).study, "mislabel_scores"),)
    assert not app.error, texts(app)


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


def test_a_test_image_that_was_trained_on_is_named_a_leak(
    demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = demo.test.batch(range(len(demo.test)))
    wrong = int(demo.misclassified()[0])
    inputs[wrong] = demo.train[17][0]
    test = ic.data.LabelledDataset(torch.utils.data.TensorDataset(inputs, labels), name="test")
    demo.replaced(test=test).save(tmp_path / "leaked")
    monkeypatch.setattr(sys.modules["parts.studies"], "_sources", {})
    monkeypatch.setattr(sys, "argv", ["app.py", "--study", str(tmp_path / "leaked")])
    app = start("explain.py", estimator="lastlayer", test=str(wrong))
    assert "**A leak:** training image 17 is the same picture" in texts(app)
    app = start("explain.py", estimator="lastlayer", test=str(wrong + 1))
    assert f"Test image {wrong + 1}" in texts(app)
    assert "A leak" not in texts(app)
