"""One cut through the scores, chosen in several ways, and what is known of it."""

from __future__ import annotations

import dataclasses
import threading
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

import influence_core as ic
from influence_core.applications import detect
from influence_core.applications.bootstrap import GRID, bootstrap, cells_of, cumulated, on_grid
from influence_core.applications.ranking import between
from influence_core.errors import InvalidInput, NotSupported
from tests.helpers import images, net

N = 60


@pytest.fixture(scope="module")
def study():
    train = images(N, seed=1, noise=0.3, name="train")
    return ic.Study(net(), train, images(9, seed=2))


@pytest.fixture(scope="module")
def unknown(study):
    return study.replaced(train=ic.data.LabelledDataset(study.train.base))


def scores_of(values):
    values = torch.as_tensor(values)
    return ic.Scores(values, torch.arange(len(values)), "mislabel")


def suspicion(study, levels=None, dtype=torch.float64, seed=0):
    values = torch.rand(N, generator=torch.Generator().manual_seed(seed)) + 0.5 * study.train.corrupted
    return scores_of((values if levels is None else (values * levels).round()).to(dtype))


# --- cuts


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 3.0, 3.5, 6.0, 99.0])
def test_a_cut_is_what_detect_would_have_said(study, threshold):
    scores = scores_of(torch.arange(N).double() % 7)
    base = detect(study, scores)
    expected, found = detect(study, scores, threshold=threshold), base.cut(threshold)
    assert found.threshold == expected.threshold == threshold
    assert torch.equal(found.flagged, expected.flagged)
    same = {f.name for f in dataclasses.fields(base)} - {"threshold", "flagged"}
    assert all(getattr(found, name) is getattr(base, name) for name in same)  # nothing is computed again
    assert found.auc == expected.auc
    assert base.threshold != threshold  # and the first one is as it was
    assert base.flagged.tolist() == detect(study, scores).flagged.tolist()


def test_a_cut_without_truth(unknown):
    found = detect(unknown, scores_of(torch.arange(N).double())).cut(57.5)
    assert found.flagged.tolist() == [59, 58]
    assert found.auc is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [None, 5])
def test_a_budget_flags_so_many_and_its_threshold_makes_the_same_set(study, unknown, dtype, levels):
    scores = suspicion(study, levels, dtype)
    found = detect(study, scores)
    order = torch.sort(scores.values, descending=True, stable=True).indices.tolist()
    kept = scores.values.tolist()
    for count in range(N + 1):
        chosen = found.budget(count)
        # the most images, count at most, after which the score falls
        most = max(k for k in range(count + 1) if k in (0, N) or kept[order[k - 1]] > kept[order[k]])
        assert chosen.flagged.tolist() == order[:most]
        again = float(repr(chosen.threshold))
        assert torch.equal(detect(unknown, scores, threshold=again).flagged, chosen.flagged)
        assert int((scores.values > again).sum()) == most  # in the dtype of the scores too
        if 0 < most < N:
            assert chosen.threshold == pytest.approx((kept[order[most - 1]] + kept[order[most]]) / 2, rel=1e-2)


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([torch.float32, torch.float64]))
def test_neighbouring_numbers_are_parted(value, dtype):
    low = torch.tensor([value], dtype=dtype)
    high = torch.nextafter(low, torch.tensor([torch.inf], dtype=dtype))
    if torch.isfinite(high):
        (threshold,) = between(low, high).tolist()
        for numbers in (low, low.double()):
            assert not bool(numbers > threshold)
        for numbers in (high, high.double()):
            assert bool(numbers > threshold)


@pytest.mark.parametrize("value", [0.0, 1e-30, -3.0, 3e38, -3e38])
def test_a_budget_of_all_lies_below_the_lowest(unknown, value):
    scores = scores_of(torch.full((N,), value))
    found = detect(unknown, scores)
    whole = found.budget(N)
    assert len(whole.flagged) == len(detect(unknown, scores, threshold=whole.threshold).flagged) == N
    assert len(found.budget(N - 1).flagged) == len(found.budget(0).flagged) == 0


@pytest.mark.parametrize("count", [-1, N + 1, 2.5, "3", None, float("nan")])
def test_a_budget_is_a_whole_number(study, count):
    with pytest.raises(InvalidInput, match="whole number from 0 to 60"):
        detect(study, suspicion(study)).budget(count)


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 0.75, 1.0])
def test_a_cut_by_precision_or_recall(study, levels, share):
    scores, wrong = suspicion(study, levels), study.train.corrupted
    found = detect(study, scores)
    sets = [scores.values > t for t in [*scores.values.unique().tolist(), -1.0]]
    precise = [int(s.sum()) for s in sets if s.any() and float(wrong[s].double().mean()) >= share]
    if precise:
        chosen = found.at_precision(share)
        assert len(chosen.flagged) == max(precise)
        assert chosen.at(chosen.threshold)["precision"] >= share
    else:
        best = max(float(wrong[s].double().mean()) for s in sets if s.any())
        with pytest.raises(InvalidInput, match=f"the best is {best:.4g}, at "):
            found.at_precision(share)
    chosen = found.at_recall(share)
    assert len(chosen.flagged) == min(int(s.sum()) for s in sets if int(wrong[s].sum()) >= share * 18 - 1e-9)
    assert chosen.at(chosen.threshold)["recall"] >= share


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf"), "much"])
def test_a_share_is_from_0_to_1(study, share):
    found = detect(study, suspicion(study))
    for choose in (found.at_precision, found.at_recall):
        with pytest.raises(InvalidInput, match="a number from 0 to 1"):
            choose(share)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -float("inf"), "high"])
def test_a_threshold_is_finite(study, threshold):
    found = detect(study, suspicion(study))
    for use in (found.cut, found.at, lambda t: detect(study, found.scores, threshold=t)):
        with pytest.raises(InvalidInput, match=r"the threshold is .* give a finite number"):
            use(threshold)


def test_precision_and_recall_need_the_truth(unknown):
    found = detect(unknown, scores_of(torch.arange(N).double()))
    assert found.budget(2).flagged.tolist() == [59, 58]
    for choose in (found.at_precision, found.at_recall):
        with pytest.raises(NotSupported, match=r"true_labels.*\.budget"):
            choose(0.5)
    assert (found.checked, found.bands) == (None, None)


# --- some of the images


def test_within_is_a_detection_of_these_images_alone(study):
    scores = suspicion(study, levels=20)
    found = detect(study, scores, threshold=15.0)
    ids = [50, 3, 4, 9, 10, 11, 12, 17, 33, 41, 42, 55]
    part = found.within(ids)
    wrong, values = study.train.corrupted[sorted(ids)].numpy(), scores.values[sorted(ids)].numpy()
    assert part.scores.train_ids.tolist() == sorted(ids)
    assert part.corrupted.numpy().tolist() == wrong.tolist()
    assert part.threshold == 15.0
    assert part.flagged.tolist() == [i for i in found.flagged.tolist() if i in ids]
    assert part.auc == pytest.approx(roc_auc_score(wrong, values))
    assert np.array_equal(part.roc.to_numpy(), np.column_stack(roc_curve(wrong, values)))
    assert part.auc_interval == bootstrap(wrong, values)[0]
    again = part.within(torch.tensor([3, 50]))
    assert again.scores.train_ids.tolist() == [3, 50]
    for same in (set(ids), np.array(ids), torch.tensor(ids), iter(ids)):
        assert found.within(same).ap == part.ap


@pytest.mark.parametrize("kind", [True, False])
def test_within_labels_of_one_kind_has_no_curves(study, kind):
    found = detect(study, suspicion(study), threshold=0.6)
    part = found.within((study.train.corrupted == kind).nonzero().flatten())
    assert (part.auc, part.roc, part.checked, part.bands) == (None,) * 4
    assert part.corrupted.tolist() == [kind] * (18 if kind else 42)
    assert part.at(0.6)["precision"] == float(kind)
    assert ("recall" in part.at(0.6)) == kind
    assert "labels of one kind" in repr(part)
    assert "AUC" not in part._repr_html_()
    if not kind:
        with pytest.raises(NotSupported, match="all labels are right"):
            part.at_recall(0.5)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "there is no image"),
        ([1, 1], "named twice"),
        ([60], "no score for training image 60; there are 60, from 0 to 59"),
        ([-1], "no score for training image -1"),
        ([0.5], "whole numbers"),
        ([True, False], "whole numbers"),
        (["a"], "whole numbers"),
    ],
)
def test_within_refuses(study, ids, message):
    with pytest.raises(InvalidInput, match=message):
        detect(study, suspicion(study)).within(ids)


def test_the_cut_is_told(study):
    found = detect(study, suspicion(study)).budget(7)
    assert "7 of 60" in found._repr_html_()
    assert f"{found.threshold:.4g}" in found._repr_html_()
    assert "7 of 60 flagged" in repr(found)


# --- the detection curve, and bands


@pytest.mark.parametrize("levels", [None, 4])
def test_checked_counts_what_each_threshold_finds(study, levels):
    scores, wrong = suspicion(study, levels), study.train.corrupted
    found = detect(study, scores)
    assert list(found.checked) == ["checked", "found", "threshold"]
    assert len(found.checked) == len(scores.values.unique()) + 1
    for checked, right, threshold in found.checked.itertuples(index=False):
        above = scores.values > threshold
        assert (checked, right) == (int(above.sum()), int((above & wrong).sum()))
    assert found.checked["checked"].iloc[[0, -1]].tolist() == [0, N]


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_the_curves_of_a_resample_are_those_of_the_images_drawn(levels, seed):
    generator = np.random.default_rng(seed)
    truth = generator.random(50) < 0.3
    values = generator.random(50) if levels is None else generator.integers(0, levels, 50).astype(float)
    drawn = generator.integers(0, 50, 50)
    hits, misses = cumulated(np.bincount(cells_of(truth, values)[drawn], minlength=100))
    roc, pr, checked = on_grid(hits, misses)
    y, x = truth[drawn], values[drawn]
    false_positive, true_positive, _ = roc_curve(y, x, drop_intermediate=False)
    precision, recall, thresholds = precision_recall_curve(y, x)
    for place, share in enumerate(GRID):
        upper = false_positive <= share + 1e-12
        at = int(upper.nonzero()[0][-1])
        after = min(at + 1, len(upper) - 1)
        width = false_positive[after] - false_positive[at]
        part = (share - false_positive[at]) / width if width > 0 else 0.0
        expected = true_positive[at] + part * (true_positive[after] - true_positive[at])
        assert roc[place] == pytest.approx(expected, abs=1e-9)
        reached = [
            p for p, r, t in zip(precision, recall, thresholds, strict=False) if r >= max(share, 1e-9) - 1e-12
        ]  # from the lowest threshold up
        assert pr[place] == pytest.approx(reached[-1])
    sizes = [0.0, *((x >= t).sum() for t in np.unique(x)[::-1])]
    found = [0.0, *((y & (x >= t)).sum() for t in np.unique(x)[::-1])]
    assert checked == pytest.approx(np.interp(GRID * 50, sizes, found) / y.sum())


@pytest.mark.parametrize("levels", [None, 5])
def test_bands_are_the_percentiles_of_sampling_with_replacement(study, levels):
    scores, truth = suspicion(study, levels), study.train.corrupted.numpy()
    bands = detect(study, scores).bands
    generator = np.random.default_rng(1)
    cells = cells_of(truth, scores.values.numpy())
    curves = []
    for _ in range(1000):
        counts = generator.multinomial(N, np.full(N, 1 / N))  # another way to draw images
        curves.append(on_grid(*cumulated(np.bincount(cells, weights=counts, minlength=cells.max() + 1))))
    low, high = np.percentile(np.array(curves), [2.5, 97.5], axis=0)
    own = on_grid(*cumulated(np.bincount(cells)))
    for number, table in enumerate((bands.roc, bands.pr, bands.checked)):
        assert table["x"].tolist() == GRID.tolist()
        assert (table["low"] <= own[number] + 1e-9).mean() > 0.97
        assert (table["high"] >= own[number] - 1e-9).mean() > 0.97
        inside = (own[number] > 0) & (own[number] < 1)  # elsewhere it reaches further, see below
        assert np.abs(table["low"] - low[number])[inside].mean() < 0.02
        assert np.abs(table["high"] - high[number])[inside].mean() < 0.02


def test_a_band_is_not_sure_of_what_few_images_say(study):
    bands = detect(study, scores_of(study.train.corrupted.double())).bands
    wilson = 18 / (18 + NormalDist().inv_cdf(0.975) ** 2)  # of 18 out of 18
    assert bands.roc["low"].iloc[1:-1].tolist() == pytest.approx([wilson] * 99, rel=1e-4)
    assert bands.pr["low"].iloc[-1] == pytest.approx(wilson, rel=1e-4)
    assert bands.roc.iloc[-1][["low", "high"]].tolist() == [1, 1]
    assert bands.checked.iloc[[0, -1]][["low", "high"]].to_numpy().ravel().tolist() == [0, 0, 1, 1]


def test_bands_cover_the_true_curve():
    """Two normal distributions 1.5 apart, whose curves are known; a band of 95 % misses in about 2 to 10 of 100."""
    normal, generator = NormalDist(), np.random.default_rng(0)
    places = np.array([1, 5, 10, 30, 50, 80])
    true = np.array([normal.cdf(1.5 + normal.inv_cdf(GRID[p])) for p in places])
    sets, covered = 40, np.zeros(len(places))
    for seed in range(sets):
        wrong = generator.random(300) < 0.3
        roc = bootstrap(wrong, generator.normal(size=300) + 1.5 * wrong, seed)[2].roc.iloc[places]
        covered += (roc["low"] <= true) & (true <= roc["high"])
    assert (covered / sets >= 0.85).all()  # 34 of 40: with 95 % each, less than 1 % of the time missed by chance
    assert 0.9 <= covered[:5].mean() / sets <= 0.99


def test_many_threads_may_ask_at_once(study):
    found = detect(study, suspicion(study))
    expected = found.within(range(30)).bands.roc
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(found.within(range(30)).bands.roc)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer.equals(expected) for answer in answers)
    assert len(answers) == 4
