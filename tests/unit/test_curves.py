"""Curves of detectors, and what a click on them and on the histogram says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core import Scores, figures
from influence_core.applications import detect
from influence_core.errors import InvalidInput, NotSupported
from tests.helpers import images, net

N = 60
DRAW = [figures.roc, figures.precision_recall, figures.detection_curve]


@pytest.fixture(scope="module")
def study():
    return ic.Study(net(), images(N, seed=1, noise=0.3, name="train"), images(9, seed=2))


@pytest.fixture(scope="module")
def many():
    """A detection of 20,000 images."""
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    given = torch.randint(0, 3, (n,), generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.1
    data = torch.utils.data.TensorDataset(torch.zeros(n, 1, 4, 4, dtype=torch.float64), given)
    train = ic.data.LabelledDataset(data, true_labels=torch.where(wrong, (given + 1) % 3, given))
    values = torch.randn(n, generator=generator) + 1.5 * wrong
    scores = Scores(values, torch.arange(n), "mislabel", train=train, meta={"estimator": "loss"})
    return detect(ic.Study(net(), train, images(9, seed=2)), scores)


def mislabel(study, values=None, name="loss"):
    values = torch.rand(N, generator=torch.Generator().manual_seed(0)) if values is None else values
    return Scores(torch.as_tensor(values), torch.arange(N), "mislabel", train=study.train, meta={"estimator": name})


def curves_of(figure):
    return [trace for trace in figure.data if trace.customdata is not None]


def bands_of(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


def cuts_of(figure):
    return [trace for trace in figure.data if trace.mode == "markers"]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("levels", [3, None])
def test_each_point_is_what_its_threshold_makes(study, draw, levels):
    """What a click says, and what the axes say, is counted anew from the threshold."""
    values = mislabel(study).values if levels is None else (mislabel(study).values * levels).round()
    found, wrong = detect(study, mislabel(study, values), threshold=0.6), study.train.corrupted
    (curve,) = curves_of(draw(found))
    assert len(curve.x) == len(values.unique()) + (draw is not figures.precision_recall)
    for x, y, (count, threshold) in zip(curve.x, curve.y, curve.customdata, strict=True):
        above = values.double() > threshold
        hits, misses = int((above & wrong).sum()), int((above & ~wrong).sum())
        assert (type(count), count) == (int, hits + misses)
        assert len(found.cut(threshold).flagged) == count
        expected = {
            figures.roc: (misses / 42, hits / 18),
            figures.precision_recall: (hits / 18, hits / max(1, count)),
            figures.detection_curve: (count, hits),
        }
        assert (x, y) == pytest.approx(expected[draw])


@pytest.mark.parametrize("levels", [3, None])
def test_the_drawn_areas_are_those_in_the_legend(study, levels):
    """Straight lines under a ROC curve, steps under precision and recall, ties included."""
    values = mislabel(study).values if levels is None else (mislabel(study).values * levels).round()
    found = detect(study, mislabel(study, values))
    (roc,), (pr,) = curves_of(figures.roc(found)), curves_of(figures.precision_recall(found))
    assert (roc.line.shape, pr.line.shape) == ("linear", "vh")
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(found.auc)
    assert np.diff(pr.x, prepend=0.0) @ np.array(pr.y) == pytest.approx(found.ap)  # each step at the height of its end
    assert f"AUC {100 * found.auc:.1f}" in roc.name
    assert f"AP {100 * found.ap:.1f}" in pr.name


@pytest.mark.parametrize("draw", DRAW)
def test_the_cut_in_use_is_marked_and_lies_on_the_curve(study, many, draw):
    for found in (detect(study, mislabel(study), threshold=0.6), many.budget(1234)):
        figure = draw(found)
        (cut,), (curve,) = cuts_of(figure), curves_of(figure)
        here = [k for k, (count, _) in enumerate(curve.customdata) if count == len(found.flagged)]
        assert len(here) == 1
        assert (cut.x[0], cut.y[0]) == (curve.x[here[0]], curve.y[here[0]])
        assert (cut.customdata, cut.hoverinfo) == (None, "skip")


def test_no_flags_have_no_precision(study):
    nothing = detect(study, mislabel(study)).budget(0)
    assert np.isnan(cuts_of(figures.precision_recall(nothing))[0].y[0])
    assert cuts_of(figures.roc(nothing))[0].y[0] == 0


@pytest.mark.parametrize("draw", DRAW)
def test_bands_are_those_of_the_detection(study, draw):
    found = detect(study, mislabel(study))
    (band,) = bands_of(draw(found))
    table = {
        figures.roc: found.bands.roc,
        figures.precision_recall: found.bands.pr,
        figures.detection_curve: found.bands.checked * 18,
    }[draw]
    points = len(table)
    assert band.y[:points] == pytest.approx(table["high"].to_numpy())
    assert band.y[points:] == pytest.approx(table["low"].to_numpy()[::-1])
    assert band.x[points - 1] == (N if draw is figures.detection_curve else 1)
    assert band.x[:points] == pytest.approx(band.x[points:][::-1])


@pytest.mark.parametrize("draw", DRAW)
def test_several_detections(study, draw):
    found = [detect(study, mislabel(study, name=n)) for n in ("fvm", "gex", "fvm", "fvm")]
    figure = draw(found)
    curves, bands, cuts = curves_of(figure), bands_of(figure), cuts_of(figure)
    assert [c.name.split(" (A")[0] for c in curves] == ["fvm", "gex", "fvm (2)", "fvm (3)"]
    assert len({c.line.color for c in curves}) == len({b.fillcolor for b in bands}) == 4
    for curve, band, cut in zip(curves, bands, cuts, strict=True):
        assert curve.legendgroup == band.legendgroup == cut.legendgroup  # a click on the legend hides all three
        red, green, blue = bytes.fromhex(curve.line.color[1:])
        assert band.fillcolor.startswith(f"rgba({red},{green},{blue},0.")
    assert len({c.legendgroup for c in curves}) == 4
    # a click selects markers: those of the first alone
    assert [c.mode for c in curves] == ["lines+markers", "lines", "lines", "lines"]
    first = curves[0]
    assert first.selected.marker.opacity == first.unselected.marker.opacity == first.marker.opacity < 0.05
    for trace in figure.data:
        assert trace.customdata is not None or trace.hoverinfo == "skip"


def test_the_random_and_the_ideal_order(study):
    figure = figures.detection_curve(detect(study, mislabel(study, study.train.corrupted.double())))
    lines = {t.name: t for t in figure.data}
    assert (lines["random order"].x, lines["random order"].y) == ((0, N), (0, 18))
    (curve,) = curves_of(figure)
    assert (list(curve.x), list(curve.y)) == (list(lines["ideal order"].x), list(lines["ideal order"].y))
    assert (lines["random order"].line.dash, lines["ideal order"].line.dash) == ("dot", "dash")


@pytest.mark.parametrize("draw", DRAW)
def test_a_long_curve_is_thinned_and_keeps_its_ends_and_its_shape(many, draw):
    figure = draw(many)
    (curve,) = curves_of(figure)
    table = many.checked
    found, checked = table["found"].to_numpy(float), table["checked"].to_numpy(float)
    with np.errstate(invalid="ignore"):
        whole = {
            figures.roc: ((checked - found) / (checked - found)[-1], found / found[-1]),
            figures.precision_recall: ((found / found[-1])[1:], (found / checked)[1:]),
            figures.detection_curve: (checked, found),
        }[draw]
    assert 300 < len(curve.x) <= 510 < len(table)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (whole[0][0], whole[1][0], whole[0][-1], whole[1][-1])
    if draw is figures.precision_recall:
        whole = whole[0][whole[0] > 0.1], whole[1][whole[0] > 0.1]  # before it swings with every image
    drawn = np.interp(whole[0], curve.x, curve.y)
    assert np.abs(drawn - whole[1]).max() < 0.02 * np.ptp(whole[1])
    assert len(json.dumps(figure.to_plotly_json()["data"], default=lambda a: a.tolist())) < 120_000


@pytest.mark.parametrize("draw", DRAW)
def test_no_curves_without_truth(study, draw):
    unknown = study.replaced(train=ic.data.LabelledDataset(study.train.base))
    with pytest.raises(NotSupported, match="true_labels"):
        draw(detect(unknown, mislabel(unknown)))
    found = detect(study, mislabel(study))
    right = found.within((~study.train.corrupted).nonzero().flatten())
    with pytest.raises(NotSupported, match="all 42 here are right"):
        draw([found, right])
    with pytest.raises(InvalidInput, match="no detection"):
        draw([])


@pytest.mark.parametrize("heavy", [False, True])
def test_a_bar_cuts_at_its_left_edge(study, heavy):
    values = mislabel(study).values.double()
    values = (12 * values).exp() if heavy else values
    figure = figures.score_histogram(mislabel(study, values))
    assert ("logarithmic" in figure.layout.xaxis.title.text) == heavy
    found = detect(study, mislabel(study, values))
    for bars in figure.data:
        for x, width, (count, edge), text in zip(bars.x, bars.width, bars.customdata, bars.hovertext, strict=True):
            left = x - width / 2
            assert edge == pytest.approx(10**left if heavy else left)
            assert (type(count), count) == (int, int((values > edge).sum()))
            assert len(found.cut(edge).flagged) == count
            assert text.startswith(f"{edge:.3g} to ")
        assert bars.selected.marker.opacity == bars.unselected.marker.opacity == bars.marker.opacity


def test_a_histogram_of_some_images(study):
    found = detect(study, mislabel(study)).within(range(20))
    figure = figures.score_histogram(found.scores, found.threshold)
    wrong = int(study.train.corrupted[:20].sum())
    assert [sum(bars.y) for bars in figure.data] == [20 - wrong, wrong]
    assert figure.data[0].customdata[0][0] == 19  # all but the lowest


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.6, 0.9, 1.0])
def test_the_legend_and_the_threshold_are_apart(study, place):
    figure = figures.score_histogram(mislabel(study, torch.linspace(0, 1, N)), threshold=place)
    (note,) = figure.layout.annotations
    legend = figure.layout.legend
    assert (legend.xanchor, legend.x) == (("left", 0) if place >= 0.5 else ("right", 1))
    reach = place + (0.25 if note.xanchor == "left" else -0.25)
    assert min(place, reach) >= 0.5 - 1e-9 or max(place, reach) <= 0.5 + 1e-9


@pytest.mark.parametrize("draw", DRAW)
def test_figures_are_small_and_suit_any_page(study, draw):
    found = detect(study, mislabel(study))
    for figure in (draw(found), figures.score_histogram(found.scores, found.threshold)):
        assert figure.layout.height == 260
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
