from __future__ import annotations

import html

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core import Scores, figures
from influence_core.applications import detect
from influence_core.errors import NotSupported
from tests.helpers import images, net

N = 60
NAMES = ["<script>alert(1)</script>", "=1+1", "<b>a & b</b>"]


def study_of(truth=True):
    train = images(N, seed=1, noise=0.3, class_names=NAMES, name="train")
    if not truth:
        train = ic.data.LabelledDataset(train.base, class_names=NAMES)
    return ic.Study(net(), train, images(9, seed=2, class_names=NAMES))


@pytest.fixture(scope="module")
def study():
    return study_of()


def mislabel(study, values=None, name="loss"):
    values = torch.rand(N, generator=torch.Generator().manual_seed(0)) if values is None else values
    return Scores(torch.as_tensor(values), torch.arange(N), "mislabel", train=study.train, meta={"estimator": name})


@pytest.mark.parametrize(
    ("draw", "table", "columns"),
    [
        (figures.roc, "roc", ("false_positive_rate", "true_positive_rate", "threshold")),
        (figures.precision_recall, "pr", ("recall", "precision", "threshold")),
    ],
)
def test_curves_show_the_detection(study, draw, table, columns):
    found = detect(study, mislabel(study), threshold=0.6)
    figure = draw(found)
    curve, marker = figure.data[:2]
    frame = getattr(found, table)
    for drawn, column in zip((curve.x, curve.y, curve.customdata), columns, strict=True):
        assert np.array_equal(drawn, frame[column])
    now = found.at(0.6)
    wrong = study.train.corrupted
    false_positives = float((mislabel(study).values > 0.6)[~wrong].double().mean())
    expected = (false_positives, now["recall"]) if table == "roc" else (now["recall"], now["precision"])
    assert (marker.x[0], marker.y[0]) == pytest.approx(expected)
    assert len(figure.data) == (3 if table == "roc" else 2)
    area = found.auc if table == "roc" else found.ap
    assert f"{100 * area:.1f}" in curve.name
    if table == "pr":
        assert figure.layout.shapes[0].y0 == pytest.approx(18 / 60)


@pytest.mark.parametrize("levels", [3, None])
def test_the_drawn_areas_are_those_in_the_legend(study, levels):
    """Straight lines under a ROC curve, steps under precision and recall, ties included."""
    values = mislabel(study).values if levels is None else (mislabel(study).values * levels).round()
    found = detect(study, mislabel(study, values))
    roc, pr = figures.roc(found).data[0], figures.precision_recall(found).data[0]
    assert (roc.line.shape, pr.line.shape) == ("linear", "hv")
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(found.auc)
    widths = np.array(pr.x) - np.append(pr.x[1:], 0.0)  # from recall of 1 downwards
    assert widths @ np.array(pr.y) == pytest.approx(found.ap)


def test_several_curves(study):
    found = [detect(study, mislabel(study, name=n)) for n in ("fvm", "gex", "loss")]
    figure = figures.roc(found)
    assert len(figure.data) == 2 * 3 + 1
    assert [t.name.split()[0] for t in figure.data if t.name] == ["fvm", "gex", "loss"]
    assert len({t.line.color for t in figure.data[:6:2]}) == 3
    assert len(figures.precision_recall(found).data) == 2 * 3


def test_long_curves_are_thinned_but_keep_their_ends(study, monkeypatch):
    monkeypatch.setattr(figures.curves, "_MOST_POINTS", 10)
    found = detect(study, mislabel(study))
    curve = figures.roc(found).data[0]
    assert len(curve.x) < len(found.roc)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("draw", [figures.roc, figures.precision_recall])
def test_no_curves_without_truth(draw):
    unknown = study_of(truth=False)
    with pytest.raises(NotSupported, match="true_labels"):
        draw(detect(unknown, mislabel(unknown)))


def test_histogram_counts_every_image_once(study):
    figure = figures.score_histogram(mislabel(study), threshold=0.6)
    right, wrong = figure.data
    assert (right.name, wrong.name) == ("label right", "label wrong")
    assert (sum(right.y), sum(wrong.y)) == (42, 18)
    values = mislabel(study).values[study.train.corrupted].numpy()
    for x, y, width in zip(wrong.x, wrong.y, wrong.width, strict=True):
        inside = ((values > x - width / 2 + 1e-7) & (values < x + width / 2 - 1e-7)).sum()
        assert abs(int(y) - int(inside)) <= 1
    assert figure.layout.shapes[0].x0 == 0.6
    assert len(figures.score_histogram(mislabel(study)).layout.shapes) == 0


def test_histogram_without_truth(study):
    unknown = study_of(truth=False)
    figure = figures.score_histogram(mislabel(unknown))
    assert len(figure.data) == 1
    assert sum(figure.data[0].y) == N


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_histogram_of_equal_scores(study, value):
    figure = figures.score_histogram(mislabel(study, torch.full((N,), value)), threshold=value)
    assert [sum(trace.y) for trace in figure.data] == [42, 18]
    assert figure.layout.shapes[0].x0 == value


@pytest.mark.parametrize("zeros", [0, 10, 55])
def test_histogram_of_a_heavy_tail_is_logarithmic(study, zeros):
    values = torch.logspace(-3, 3, N, dtype=torch.float64)
    values[:zeros] = 0
    figure = figures.score_histogram(mislabel(study, values), threshold=10.0)
    assert "logarithmic" in figure.layout.xaxis.title.text
    assert sum(sum(trace.y) for trace in figure.data) == N
    assert figure.layout.shapes[0].x0 == pytest.approx(1.0)
    assert np.isfinite(figure.data[0].x).all()


def influence(study):
    values = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
    return Scores(
        values, torch.arange(N), "influence", test_ids=torch.tensor([4, 7]), train=study.train, test=study.test
    )


@pytest.mark.parametrize("kind", [list, set, torch.tensor])
def test_explanation_strip(study, kind):
    scores = influence(study)
    harmful, helpful = scores.harmful(7, 4), scores.helpful(7, 4)
    shown = [*harmful["train_id"], *helpful["train_id"]]
    figure = figures.explanation_strip(study, scores, test_id=7, k=4, flagged=kind([shown[1], shown[6], 999]))
    assert len(figure.data) == 0
    assert len(figure.layout.images) == 1 + 2 * 4
    assert [i.source for i in figure.layout.images[1:]] == [ic.pictures.data_url(study.train, i, 128) for i in shown]
    assert figure.layout.images[0].source == ic.pictures.data_url(study.test, 7, 128)
    captions = [a.text for a in figure.layout.annotations]
    assert captions[0].startswith("test image 7<br>")
    assert [int(c.split("#")[1].split("<")[0]) for c in captions if "#" in c] == shown
    struck = [int(c.split("#")[1].split("<")[0]) for c in captions if "<s>" in c]
    assert struck == [i for i in shown if study.train.corrupted[i]]
    assert struck
    places = {i.source: i.x for i in figure.layout.images[1:]}
    frames = [s for s in figure.layout.shapes if s.line.color == figures.FLAGGED]
    assert [s.x0 for s in frames] == [places[ic.pictures.data_url(study.train, i, 128)] for i in (shown[1], shown[6])]
    bars = [s.x1 - s.x0 for s in figure.layout.shapes if s.fillcolor]
    strength = np.abs([*harmful["score"], *helpful["score"]])
    assert bars == pytest.approx(strength / strength.max())


def test_a_struck_label_is_followed_by_the_true_one(study):
    figure = figures.explanation_strip(study, influence(study), test_id=7, k=20)
    text = next(a.text for a in figure.layout.annotations if "<s>" in a.text)
    i = int(text.split("#")[1].split("<")[0])
    given, true = (html.escape(NAMES[int(y[i])], quote=False) for y in (study.train.labels, study.train.true_labels))
    assert text.startswith(f"<s>{given}</s> <b>{true}</b> #{i}")


def test_class_names_are_text(study):
    figure = figures.explanation_strip(study, influence(study), test_id=4, k=20)
    captions = " ".join(a.text for a in figure.layout.annotations)
    assert "<script" not in captions
    assert "&lt;script&gt;" in captions
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in captions
    assert "=1+1" in captions


def test_confusion_matrix_counts_every_image_once(study, demo):
    from sklearn.metrics import confusion_matrix

    for data, split in ((study, "train"), (demo, "test")):
        (squares,) = figures.confusion_matrix(data, split).data
        counts = np.zeros((data.num_classes, data.num_classes), dtype=int)
        for x, y, text, custom in zip(squares.x, squares.y, squares.text, squares.customdata, strict=True):
            assert custom.tolist() == [y, x, int(text)]
            counts[y, x] = int(text)
        expected = confusion_matrix(
            data.split(split).labels, data.predictions(split), labels=list(range(data.num_classes))
        )
        assert np.array_equal(counts, expected)
    ticks = figures.confusion_matrix(study, "train").layout.xaxis.ticktext
    assert list(ticks) == ["&lt;script&gt;alert(1)&lt;/script&gt;", "=1+1", "&lt;b&gt;a &amp; b&lt;/b&gt;"]


def test_figures_of_the_demo_draw(demo):
    estimator = ic.estimators.Loss().fit(demo)
    found = detect(demo, estimator.mislabel_scores())
    for figure in (figures.roc(found), figures.precision_recall(found), figures.score_histogram(found.scores)):
        assert len(figure.to_json()) > 1000
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
