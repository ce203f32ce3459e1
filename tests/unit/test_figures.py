from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core import Scores, figures
from influence_core.applications import detect
from influence_core.errors import InvalidInput, StaleResult
from influence_core.figures import as_text
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


def test_histogram_of_few_images_has_no_halves_of_them(study):
    ids = torch.arange(4)
    few = replace(mislabel(study), values=torch.rand(4, generator=torch.Generator().manual_seed(0)), train_ids=ids)
    assert figures.score_histogram(few).layout.yaxis.dtick == 1
    assert figures.score_histogram(mislabel(study, torch.zeros(N))).layout.yaxis.dtick is None


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
    captions = [a.text for a in figure.layout.annotations if a.yanchor == "top"]
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


def test_scores_of_one_image_need_not_say_which(study):
    scores = ic.estimators.LastLayer().fit(study).influence([7])
    shown = [figures.explanation_strip(study, scores, *test_id).to_json() for test_id in ((), (7,))]
    assert shown[0] == shown[1]
    assert scores.harmful(k=3).equals(scores.harmful(7, 3))
    with pytest.raises(ic.InvalidInput, match="say which test image"):
        figures.explanation_strip(study, influence(study))


def test_a_struck_label_is_followed_by_the_true_one(study):
    figure = figures.explanation_strip(study, influence(study), test_id=7, k=20)
    text = next(a.text for a in figure.layout.annotations if "<s>" in a.text)
    i = int(text.split("#")[1].split("<")[0])
    given, true = (as_text(NAMES[int(y[i])], 14) for y in (study.train.labels, study.train.true_labels))
    assert text.startswith(f"<s>{given}</s> <b>{true}</b> #{i}")


def test_class_names_are_text(study):
    figure = figures.explanation_strip(study, influence(study), test_id=4, k=20)
    captions = " ".join(a.text for a in figure.layout.annotations)
    assert "<script" not in captions
    assert "&lt;script&gt;" in captions
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in captions
    assert "=1+1" in captions


# --- several estimators on one test image


def estimators(study, test_id=7):
    """Influence of four estimators; the first two name the same images."""
    drawn = torch.randn(N, 3, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([test_id])
    return [
        Scores(
            drawn[:, max(0, i - 1)][:, None],
            torch.arange(N),
            "influence",
            test_ids=ids,
            train=study.train,
            meta={"estimator": f"<u>{i}</u>", "study": study.fingerprint, "seconds": 0.5 + i, "fit_seconds": 1e-5},
        )
        for i in range(4)
    ]


def test_side_by_side(study):
    scores, k = estimators(study), 4
    flagged = scores[2].helpful(7, 2)["train_id"].tolist()
    figure = figures.side_by_side(study, scores, test_id=7, k=k, flagged=flagged)
    agreed = ic.evaluation.agreement(scores, 7, k)
    first, *pictures = figure.layout.images
    assert first.source == ic.pictures.data_url(study.test, 7, 128)
    rows = [[*s.harmful(7, k)["train_id"], *s.helpful(7, k)["train_id"]] for s in scores]
    by_row = sorted(pictures, key=lambda p: (-p.y, p.x))
    shown = [i for row in rows for i in row]
    assert [p.source for p in by_row] == [ic.pictures.data_url(study.train, i, 128) for i in shown]
    columns = {p.x for p in pictures}
    assert len(columns) == 2 * k  # ranks line up
    assert len({p.y for p in pictures}) == len(scores)
    captions = sorted((a for a in figure.layout.annotations if a.yanchor == "top"), key=lambda a: (-a.y, a.x))
    assert captions.pop(0).text.startswith("test image 7<br>")
    assert [int(a.text.split("#")[1].split("<")[0]) for a in captions] == shown
    sides = (["harmful"] * k + ["helpful"] * k) * len(scores)
    for caption, i, side in zip(captions, shown, sides, strict=True):
        named = agreed.count(i, side)
        assert (f"{named} of 4" in caption.text) == (named > 1)
        assert ("of 4" in caption.text) == (named > 1)
        assert f"#{i}" in caption.hovertext
    assert any("2 of 4" in a.text for a in captions)
    texts = [a.text for a in figure.layout.annotations]
    for i in range(4):
        assert any(f"&lt;u&gt;{i}&lt;/u&gt;" in text and f"{0.5 + i} s, fit &lt; 0.01 s" in text for text in texts)
    assert not any("<u>" in text for text in texts)
    framed = sorted((s.y0, s.x0) for s in figure.layout.shapes if s.line.color == figures.FLAGGED)
    expected = [(p.y - 1, p.x) for p, i in zip(by_row, shown, strict=True) if i in flagged]
    assert np.allclose(framed, sorted(expected))


def test_side_by_side_grows_with_the_estimators_and_stops_at_the_images(study):
    scores = estimators(study)
    four, two = (figures.side_by_side(study, scores[:n], 7, k=1).layout for n in (4, 2))
    assert four.height > two.height
    assert len(figures.side_by_side(study, scores, 7, k=N + 5).layout.images) == 1 + 4 * 2 * N


def test_side_by_side_refuses_another_study(study):
    scores = [s.with_meta(study="another") for s in estimators(study)]
    with pytest.raises(StaleResult, match="belong to another study"):
        figures.side_by_side(study, scores, 7)


def test_a_heading_is_in_the_colour_of_the_page(study):
    for figure in (
        figures.side_by_side(study, estimators(study), 7),
        figures.explanation_strip(study, influence(study), 7),
    ):
        assert all(a.font.color is None for a in figure.layout.annotations)


@pytest.mark.parametrize("side", ["harmful", "helpful"])
def test_overlap(study, side):
    agreed = ic.evaluation.agreement(estimators(study), 7, 6)
    (squares,) = figures.overlap(agreed, side).data
    counts = agreed.overlap(side).to_numpy()
    assert len(squares.x) == 16
    for x, y, text, custom in zip(squares.x, squares.y, squares.text, squares.customdata, strict=True):
        assert [y, x, int(text)] == list(custom)
        assert int(text) == counts[y, x]
    assert_readable(squares)
    tone = figures.HARMFUL if side == "harmful" else figures.HELPFUL
    assert figures.squares.shade(tone, 1.0) in squares.marker.color
    assert all("<u>" not in tip for tip in squares.hovertext)


# --- the confusion matrix


def linear_study(k, n=400, seed=0, names=None, pairs=()):
    """Inputs are one-hot predictions: the model is the identity, and the labels say what is a mistake."""
    draw = torch.Generator().manual_seed(seed)
    predicted = torch.randint(k, (n,), generator=draw)
    wrong = torch.rand(n, generator=draw) < 0.2
    labels = torch.where(wrong, torch.randint(k, (n,), generator=draw), predicted)
    for a, b, times in pairs:
        predicted = torch.cat([predicted, torch.full((times,), b)])
        labels = torch.cat([labels, torch.full((times,), a)])
    model = torch.nn.Linear(k, k, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(k))
    names = [f"class number {i}" for i in range(k)] if names is None else names
    data = ic.data.LabelledDataset(TensorDataset(torch.eye(k)[predicted], labels), class_names=names)
    return ic.Study(model, data, data)


def contrast(one, other):
    """WCAG 2.2, "contrast ratio" and "relative luminance", of two colours #rrggbb."""

    def luminance(colour):
        assert len(colour) == 7
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def assert_readable(squares):
    """Every number against its square, also the one that was clicked; nothing of the background shines through."""
    numbered = [i for i, text in enumerate(squares.text) if text]
    assert numbered
    assert squares.marker.opacity == squares.unselected.marker.opacity == 1
    for i in numbered:
        assert contrast(squares.textfont.color[i], squares.marker.color[i]) >= 4.5
        assert squares.textfont.size[i] >= 7
    assert contrast(squares.selected.textfont.color, squares.selected.marker.color) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.005)  # the example of many a guide


def test_black_or_white_stands_out_on_any_colour():
    for red in range(0, 256, 15):
        for green in range(0, 256, 15):
            for blue in range(0, 256, 15):
                colour = f"#{red:02x}{green:02x}{blue:02x}"
                assert contrast(figures.squares.ink(colour), colour) >= 4.5


def test_confusion_matrix_counts_every_image_once(study, demo):
    from sklearn.metrics import confusion_matrix

    for data, split in ((study, "train"), (demo, "test")):
        (squares,) = figures.confusion_matrix(data, split).data
        counts = np.zeros((data.num_classes, data.num_classes), dtype=int)
        for x, y, text, custom in zip(squares.x, squares.y, squares.text, squares.customdata, strict=True):
            assert list(custom) == [y, x, int(text)]
            counts[y, x] = int(text)
        expected = confusion_matrix(
            data.split(split).labels, data.predictions(split), labels=list(range(data.num_classes))
        )
        assert np.array_equal(counts, expected)
        assert_readable(squares)
    ticks = figures.confusion_matrix(study, "train").layout.xaxis.ticktext
    assert list(ticks) == [as_text(name, 14) for name in NAMES]


@pytest.mark.parametrize("k", [2, 10, 20, 30, 100, 1000])
def test_many_classes_are_cut_to_the_most_confused(k):
    data = linear_study(k, n=4000)
    figure = figures.confusion_matrix(data, most=20)
    (squares,) = figure.data
    labels, predicted = data.test.labels.numpy(), data.predictions().numpy()
    classes = sorted({c for custom in squares.customdata for c in custom[:2]})
    for x, y, (label, prediction, number) in zip(squares.x, squares.y, squares.customdata, strict=True):
        assert number == ((labels == label) & (predicted == prediction)).sum()
        assert figure.layout.yaxis.ticktext[y] == as_text(data.class_names[label], 14 if k <= 12 else 11)
        assert figure.layout.xaxis.ticktext[x] == as_text(data.class_names[prediction], 14 if k <= 12 else 11)
    assert_readable(squares)
    if k <= 20:
        assert figure.layout.title.text is None
        assert classes == list(range(k))
        return
    assert figure.layout.title.text == f"the 20 most confused of {k:,} classes"
    wrong = labels != predicted
    mistakes = np.bincount(labels[wrong], minlength=k) + np.bincount(predicted[wrong], minlength=k)
    left_out = np.delete(mistakes, classes)
    assert len(figure.layout.xaxis.tickvals) == 20
    assert min(mistakes[c] for c in classes) >= left_out.max()


def test_confused_classes_lie_beside_each_other():
    blocks = [(3, 70, 41), (55, 8, 90), (33, 61, 12)]
    pairs = [(a, b, 30) for block in blocks for a in block for b in block if a != b]
    figure = figures.confusion_matrix(linear_study(100, n=100, pairs=pairs), most=9)
    classes = {}
    for y, custom in zip(figure.data[0].y, figure.data[0].customdata, strict=True):
        classes[y] = custom[0]
    order = [classes[i] for i in range(9)]
    assert sorted(frozenset(order[i : i + 3]) for i in (0, 3, 6)) == sorted(frozenset(block) for block in blocks)


def test_the_whole_matrix_with_a_label_dims_the_other_rows(demo):
    plain, dim = (figures.confusion_matrix(demo, label=label) for label in (None, 8))
    assert len(plain.data[0].x) == len(dim.data[0].x)
    for y, text, colour, before in zip(
        dim.data[0].y, dim.data[0].text, dim.data[0].marker.color, plain.data[0].marker.color, strict=True
    ):
        assert (colour == before) == bool(text) == (y == 8)
    assert_readable(dim.data[0])
    assert dim.layout.yaxis.ticktext[8].startswith("<b>")
    assert sum("<b>" in text for text in dim.layout.yaxis.ticktext) == 1


def test_a_label_among_many_classes_shows_what_it_is_confused_with():
    data = linear_study(200, n=200, pairs=[(5, 60, 9), (5, 61, 8), (90, 5, 7), (90, 91, 50)])
    wrong = data.test.labels != data.predictions()
    mistakes = set(zip(data.test.labels[wrong].tolist(), data.predictions()[wrong].tolist(), strict=True))
    partners = {a for a, b in mistakes if b == 5} | {b for a, b in mistakes if a == 5}
    figure = figures.confusion_matrix(data, label=5)
    assert {c for custom in figure.data[0].customdata for c in custom[:2]} == partners | {5}
    assert f"{len(partners)} classes confused with it" in figure.layout.title.text
    few = figures.confusion_matrix(data, label=5, most=3)
    assert {c for custom in few.data[0].customdata for c in custom[:2]} == {5, 60, 61}


def test_the_selected_square_is_outlined(demo):
    many = linear_study(100, pairs=[(70, 3, 50)])
    for figure, (label, predicted) in (
        (figures.confusion_matrix(demo, selected=(3, 7)), (3, 7)),
        (figures.confusion_matrix(many, selected=(70, 3)), (70, 3)),
    ):
        squares = figure.data[0]
        i = [list(custom[:2]) for custom in squares.customdata].index([label, predicted])
        assert {s.line.color for s in figure.layout.shapes} == {"#000000", "#ffffff"}
        for shape in figure.layout.shapes:
            centre = ((shape.x0 + shape.x1) / 2, (shape.y0 + shape.y1) / 2)
            assert centre == pytest.approx((squares.x[i], squares.y[i]))
    assert not figures.confusion_matrix(demo).layout.shapes


@pytest.mark.parametrize("k", [10, 20])
def test_squares_nearly_fill_their_cells(k):
    figure = figures.confusion_matrix(linear_study(k, n=4000))
    margin = figure.layout.margin
    assert figure.layout.height == 320
    cell = min(300 - margin.l - margin.r, 320 - margin.t - margin.b) / k
    assert 0.75 * cell < figure.data[0].marker.size < cell


@pytest.mark.parametrize("name", ["n" * 300, "\u05d7\u05ea\u05d5\u05dc " * 40, "\u4e2d" * 300, "$x^2$ " * 50])
@pytest.mark.parametrize("k", [10, 20])
def test_no_name_squeezes_the_matrix(name, k):
    short = [f"class number {i}" for i in range(k)]
    names = [name, *short[1:]]
    figure, usual = (figures.confusion_matrix(linear_study(k, n=900, names=n)) for n in (names, short))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.automargin is False
        assert axis.tickfont.color is None
        assert len(html.unescape(axis.ticktext[0])) <= 14 + 2
    assert figure.layout.margin.l + figure.layout.margin.r < 150
    assert figure.layout.margin.t + figure.layout.margin.b < 150
    assert figure.data[0].marker.size > 0.75 * usual.data[0].marker.size
    whole = next(tip for tip, c in zip(figure.data[0].hovertext, figure.data[0].customdata, strict=True) if c[0] == 0)
    letters = figures.text.plain(name).replace("$", "&#36;").replace(" ", "")
    assert letters in re.sub("[ \u2068\u2069]|<br>", "", whole)
    assert figure.data[0].hovertemplate == "%{hovertext}<extra></extra>"


def test_a_model_without_mistakes():
    for k in (3, 50):
        labels = torch.arange(k)
        model = torch.nn.Linear(k, k, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.eye(k))
        data = TensorDataset(torch.eye(k), labels)
        perfect = ic.Study(model, data, data)
        for label in (None, 1):
            squares = figures.confusion_matrix(perfect, label=label).data[0]
            assert all(custom[0] == custom[1] for custom in squares.customdata)
        assert ic.evaluation.confusions(perfect).empty
    assert figures.confusion_matrix(perfect).layout.title.text == "no mistakes; 20 of 50 classes"


def test_confusion_matrix_refuses_what_is_no_class(demo):
    for wrong in ({"label": 10}, {"label": -1}, {"selected": (0, 10)}, {"selected": (True, 1)}, {"most": 0}):
        with pytest.raises(InvalidInput):
            figures.confusion_matrix(demo, **wrong)


# --- names


@pytest.mark.parametrize(
    ("name", "most", "text"),
    [
        ("cat", None, "cat"),
        ("<b>a & b</b>", None, "&lt;b&gt;a &amp; b&lt;/b&gt;"),
        ("$x^2$ for $5", None, "&#36;x^2&#36; for &#36;5"),
        ("one\ntwo\tthree\x00\u2028four", None, "one two three four"),
        ("\u202eevil\u2069 name\u2066", None, "evil name"),
        ("\ud800broken", None, "broken"),
        ("abcdefgh", 8, "abcdefgh"),
        ("abcdefghi", 8, "abcdefg…"),
        ("abcdef hij", 8, "abcdef…"),
        ("\u4e2d" * 9, 8, "\u4e2d" * 3 + "…"),
        ("<<<<<<<<<", 4, "&lt;&lt;&lt;…"),
        ("", 4, ""),
    ],
)
def test_as_text(name, most, text):
    assert as_text(name, most) == f"\u2068{text}\u2069"


def test_pictures_in_html_isolate_names():
    data = images(3, class_names=["\u05d7\u05ea\u05d5\u05dc", "<i>", "c"]).with_labels([0, 1, 2])
    for i, name in enumerate(("\u05d7\u05ea\u05d5\u05dc", "&lt;i&gt;", "c")):
        assert f"<bdi>{name}</bdi>" in ic.pictures.picture_html(data, i, "1.0")


def test_figures_of_the_demo_draw(demo):
    estimator = ic.estimators.Loss().fit(demo)
    found = detect(demo, estimator.mislabel_scores())
    for figure in (figures.roc(found), figures.precision_recall(found), figures.score_histogram(found.scores)):
        assert len(figure.to_json()) > 1000
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
