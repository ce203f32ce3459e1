"""What the pages send to the browser: the pictures, the cut, the class and the square, and the link to all that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parts.frame import PAGES as SHOWN  # type: ignore[import-not-found]

import influence_core as ic
from influence_core.store.run import RESULTS
from influence_core.study import PAGES

from .runner import (
    QUICK,
    detection,
    each,
    fine,
    gallery,
    linked,
    plain,
    same,
    settled,
    start,
    surest,
    texts,
)

pytestmark = pytest.mark.usefixtures("patience")

Bundled = Callable[[str, str], ic.Scores]


def test_instead_of_a_test_image_that_is_not_there_the_surest_mistake_is_shown(demo: ic.Study) -> None:
    app = start("explain.py", test="99999")
    expected = surest(demo, demo.misclassified())
    assert app.number_input(key="test").value == expected
    assert f"Showing test image {expected}" in texts(app)
    assert gallery(app, "test_card")["id"] == [expected]


def test_overview_of_a_class_counts_that_class(demo: ic.Study) -> None:
    app = start("overview.py", **{"class": "3"})
    mine = demo.test.labels == 3
    right = demo.predictions()[mine] == 3
    assert app.metric[0].value == f"{float(right.double().mean()):.1%}"
    flagged = detection(demo).flagged
    assert app.metric[1].value == str(int((demo.train.labels[flagged] == 3).sum()))


def test_explain_shows_the_ranking_of_the_library(demo: ic.Study) -> None:
    app = start("explain.py")
    app.number_input(key="test").set_value(17).run()
    app.number_input(key="k").set_value(7).run()
    settled(app)
    scores = ic.estimators.get(QUICK).fit(demo).influence([17])
    for side, table, frame in zip(
        ("harmful", "helpful"), app.dataframe, (scores.harmful(17, 7), scores.helpful(17, 7)), strict=True
    ):
        same(table.value, frame)
        tiles = gallery(app, f"explain_{QUICK}_{side}")
        assert tiles["id"] == frame["train_id"].tolist()
        bars = torch.tensor(tiles["bar"])
        assert bool((bars <= 0).all() if side == "harmful" else (bars >= 0).all())
    assert (app.query_params["test"], app.query_params["k"]) == ("17", "7")


def test_yellow_frames_are_the_flagged_ones(demo: ic.Study) -> None:
    flagged = {int(i) for i in detection(demo).budget(200).flagged}
    app = start("explain.py", test="475", k="20", flag="200")
    marked = []
    for side in ("harmful", "helpful"):
        tiles = gallery(app, f"explain_{QUICK}_{side}")
        shown = each(tiles["flagged"], len(tiles["id"]))
        assert [bool(flag) for flag in shown] == [i in flagged for i in tiles["id"]]
        marked += shown
    assert any(marked)
    assert "one of the 200 labels" in texts(app)


def test_a_square_of_the_matrix_narrows_the_mistakes(demo: ic.Study) -> None:
    pairs = ic.evaluation.confusions(demo)
    label, predicted = int(pairs["label"].iloc[0]), int(pairs["predicted"].iloc[0])
    app = start("explain.py", cell=f"{label},{predicted}")
    mine = ((demo.test.labels == label) & (demo.predictions() == predicted)).nonzero().flatten()
    assert sorted(gallery(app, "mistakes")["id"]) == mine.tolist()
    assert app.number_input(key="test").value == surest(demo, mine)
    assert app.selectbox(key="confusion").value == (label, predicted)
    app.sidebar.selectbox(key="class").select((label + 1) % 10).run()
    assert "cell" not in app.query_params  # it belonged to the other class


def test_a_square_without_images_is_told(demo: ic.Study) -> None:
    cells = set(zip(demo.test.labels.tolist(), demo.predictions().tolist(), strict=True))
    label, predicted = next((a, b) for a in range(10) for b in range(10) if (a, b) not in cells)
    app = start("explain.py", cell=f"{label},{predicted}")
    assert "No images in this square" in app.info[0].value
    assert fine(app)
    assert not gallery(app, "mistakes")["id"]
    app.selectbox(key="confusion").set_value(None).run()
    assert sorted(gallery(settled(app), "mistakes")["id"]) == demo.misclassified().tolist()


def test_two_estimators_side_by_side_and_how_far_they_agree(demo: ic.Study) -> None:
    names = [QUICK, "ekfac"]
    app = start("explain.py", estimator=",".join(names), test="17", k="6")
    scores = [ic.estimators.get(name).fit(demo).influence([17]) for name in names]
    together = ic.evaluation.agreement(scores, 17, k=6)
    same(app.dataframe[0].value, together.table)
    for name, mine in zip(names, scores, strict=True):
        assert gallery(app, f"explain_{name}_harmful")["id"] == mine.harmful(17, 6)["train_id"].tolist()
    for sentence in together.sentences():
        assert sentence in texts(app)
    both = {i for i in scores[0].harmful(17, 6)["train_id"] if together.count(int(i), "harmful") == 2}
    tiles = gallery(app, f"explain_{QUICK}_harmful")
    assert both
    sent = json.dumps(tiles["badge"]) if "badge" in tiles else ""
    assert "2 of 2" in sent


@pytest.mark.usefixtures("nothing_kept")  # bundled answers have the last bits of the machine that made them
@pytest.mark.parametrize("typed", ["abc", "", "nan", "inf", "1e9", "-1e9"])
def test_a_threshold_that_makes_no_sense_is_told_and_changes_nothing(typed: str, demo: ic.Study) -> None:
    app = start("mislabels.py", flag="9")
    app.text_input(key="threshold").set_value(typed).run()
    (warning,) = app.warning
    values = detection(demo).scores.values
    assert f"{float(values.min()):.4g} to {float(values.max()):.4g}" in plain(warning.value)
    assert app.query_params["flag"] == "9"
    assert float(app.text_input(key="threshold").value) == pytest.approx(detection(demo).budget(9).threshold, rel=1e-5)
    assert not app.run().warning  # told once


def test_a_precision_that_no_cut_has_is_told(demo: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = detection(demo, "random")
    with pytest.raises(ic.InfluenceError) as refusal:
        whole.at_precision(1.0)
    app = start("mislabels.py", estimator="random", flag="9")
    app.number_input(key="precision").set_value(100.0).run()
    assert plain(app.warning[0].value) == " ".join(str(refusal.value).split())
    assert app.query_params["flag"] == "9"


def test_the_threshold_on_show_flags_what_is_flagged(demo: ic.Study) -> None:
    app = start("mislabels.py", flag="33")
    shown = app.text_input(key="threshold").value
    app.text_input(key="threshold").set_value(f"{shown} ").run()
    assert app.query_params["flag"] == "33"


def test_budget_threshold_and_precision_move_the_same_cut(demo: ic.Study) -> None:
    whole = detection(demo)
    app = start("mislabels.py")
    assert app.number_input(key="budget").value == len(whole.flagged)  # Otsu's

    def at(count: int) -> None:
        settled(app)
        cut = whole.budget(count)
        assert fine(app), texts(app)
        assert app.query_params["flag"] == str(count)
        assert app.number_input(key="budget").value == count
        assert float(app.text_input(key="threshold").value) == pytest.approx(cut.threshold, rel=1e-5)
        assert app.number_input(key="precision").value == pytest.approx(
            100 * cut.at(cut.threshold)["precision"], abs=0.05
        )
        assert gallery(app, "flagged")["id"] == whole.scores.top(k=count)["train_id"].tolist()
        assert f"**{count:,} flagged**" in texts(app)

    app.number_input(key="budget").set_value(7).run()
    at(7)
    ordered = whole.scores.values.sort(descending=True).values
    between = float(ordered[19] + ordered[20]) / 2
    assert ordered[19] > ordered[20]
    app.text_input(key="threshold").set_value(f" {between:.9g} ".replace(".", ",")).run()
    at(20)
    app.number_input(key="precision").set_value(80.0).run()
    at(len(whole.at_precision(0.8).flagged))


def test_the_class_filter_narrows_numbers_and_pictures(demo: ic.Study) -> None:
    cut = detection(demo).budget(120)
    mine = (demo.train.labels == 3).nonzero().flatten()
    within = cut.within(mine)
    assert within.auc is not None
    assert within.auc != cut.auc
    app = start("mislabels.py", flag="120", **{"class": "3"})
    shown = texts(app)
    assert f"AUC {100 * within.auc:.1f}" in shown
    assert f"average precision {100 * within.ap:.1f}" in shown
    flagged = [int(i) for i in cut.scores.top(k=120)["train_id"] if int(demo.train.labels[int(i)]) == 3]
    assert gallery(app, "flagged")["id"] == flagged
    assert f"**{len(flagged)} flagged**" in shown
    assert app.number_input(key="budget").value == 120  # the cut is one for all classes


@pytest.fixture
def bundled(demo: ic.Study, tmp_path: Path) -> Bundled:
    """Answers that came with the demo, whatever other tests have kept, and wherever they have saved the study."""
    store = ic.store.Store(tmp_path / "apart", also=(ic.demo.BUNDLED / RESULTS,))

    def answer(name: str, what: str) -> ic.Scores:
        found = store.find(ic.store.Request.of(demo, name, what))
        assert isinstance(found, ic.Scores)
        return found

    return answer


@pytest.mark.parametrize("name", ["calibrated", "loss"])
def test_mislabels_says_what_a_budget_is_expected_to_find(demo: ic.Study, name: str, bundled: Bundled) -> None:
    """Of the answers that came with the demo: nothing is fitted here."""
    scores = bundled(name, "mislabel_scores")
    cut = ic.applications.detect(demo, scores).budget(100)
    app = start("mislabels.py", estimator=name, flag="100")
    assert cut.expected_precision is not None
    said = f"{cut.expected_precision:.1%} expected to be mislabelled" in texts(app)
    assert said == (name == "calibrated")  # a guess from the scores alone is not for the first line
    table = app.dataframe[0].value
    for images, expected, true in table[["images", "expected", "true"]].itertuples(index=False):
        part = cut.budget(int(images))
        assert expected == pytest.approx(float(cut.probabilities[part.flagged].mean()))
        assert true == pytest.approx(part.at(part.threshold)["precision"])
    assert 100 in table["images"].tolist()
    assert str(cut.reliability()) in texts(app)
    learnt = "Learnt from clean images" if name == "calibrated" else "A guess from the scores alone"
    assert learnt in texts(app)


def test_relabel_shows_how_sure_a_suggestion_is_where_that_is_known(demo: ic.Study, bundled: Bundled) -> None:
    app = start("relabel.py", estimator="calibrated")
    table = app.dataframe[0].value
    p = bundled("calibrated", "label_influence").values.double()
    ids = table["index"].tolist()
    assert table["suggestion_quality"].tolist() == pytest.approx(p[ids].max(1).values.tolist())
    given = [float(p[i, demo.train.labels[i]]) for i in ids]
    assert table["label_quality"].tolist() == pytest.approx(given, abs=1e-6)
    assert "suggestion_quality" not in start("relabel.py", estimator="loss").dataframe[0].value


def test_at_the_cut_are_the_last_flagged_and_the_first_that_are_not(demo: ic.Study) -> None:
    app = start("mislabels.py", flag="120", order="cut")
    order = detection(demo).scores.top(k=150)["train_id"].tolist()
    tiles = gallery(app, "flagged")
    assert tiles["id"] == order[90:150]
    assert [bool(flag) for flag in tiles["flagged"]] == [True] * 30 + [False] * 30


def test_filters_narrow_the_relabel_table(demo: ic.Study) -> None:
    app = start("relabel.py")
    flagged = app.dataframe[0].value
    app.button_group(key="rows").set_value("differs").run()
    differs = settled(app).dataframe[0].value
    assert 0 < len(differs) < len(flagged)
    assert (differs["given_label"] != differs["suggested_label"]).all()
    app.button_group(key="rows").set_value("all").run()
    assert len(settled(app).dataframe[0].value) == len(demo.train)
    app.sidebar.selectbox(key="class").select(3).run()
    mine = settled(app).dataframe[0].value
    assert len(mine) == int((demo.train.labels == 3).sum())
    assert set(mine["given_label"]) == {"3"}
    assert app.query_params["rows"] == "all"


@pytest.mark.parametrize("page", ["overview.py", "explain.py", "mislabels.py", "relabel.py"])
def test_a_link_holds_what_was_changed_on_the_page(page: str) -> None:
    app = start(page)
    app.sidebar.selectbox(key="class").select(8).run()
    if page == "explain.py":
        app.number_input(key="test").set_value(17).run()
        app.number_input(key="k").set_value(9).run()
    if page == "mislabels.py":
        app.number_input(key="budget").set_value(12).run()
        app.button_group(key="tiles").set_value("large").run()
        app.button_group(key="order").set_value("cut").run()
    if page == "relabel.py":
        app.button_group(key="rows").set_value("all").run()
    params = linked(settled(app))
    assert params == {key: value for key, value in app.query_params.items() if key != "image"}
    assert params["class"] == "8"
    assert len(params) == {"overview.py": 2, "explain.py": 4, "mislabels.py": 5, "relabel.py": 3}[page]


def test_the_library_opens_each_page_of_the_app() -> None:
    assert set(PAGES) == set(SHOWN)
