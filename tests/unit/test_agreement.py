"""Agreement of estimators on a test image, and which class is taken for which."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core import InvalidInput, NotSupported, Scores, StaleResult
from influence_core.evaluation import agreement, confusions
from tests.helpers import images, net

N, TEST = 40, 7
SIDES = ("harmful", "helpful")
TRAIN = images(N, seed=1, noise=0.3, class_names=["<i>a</i>", "b", "c"])


def scores(name: str, seed: int = 0, values: torch.Tensor | None = None, **meta: object) -> Scores:
    """Influence on two test images, with many ties; the column of TEST is the second."""
    drawn = torch.randint(-6, 6, (N, 2), generator=torch.Generator().manual_seed(seed)).float() / 4
    if values is not None:
        drawn[:, 1] = values
    facts = {"estimator": name, "study": "one"} | meta
    return Scores(drawn, torch.arange(N), "influence", test_ids=torch.tensor([2, TEST]), meta=facts, train=TRAIN)


@pytest.fixture
def four() -> list[Scores]:
    return [scores(name, seed) for seed, name in enumerate(("ekfac", "tracin", "gex", "trak"))]


def top(s: Scores, side: str, k: int) -> list[int]:
    return getattr(s, side)(TEST, k)["train_id"].tolist()


@pytest.mark.parametrize("k", [1, 5, N, N + 9])
def test_the_table_is_what_harmful_and_helpful_say(four: list[Scores], k: int) -> None:
    found = agreement(four, TEST, k)
    for side in SIDES:
        rows = found.table[found.table["side"] == side]
        named = Counter(i for s in four for i in top(s, side, k))
        assert dict(zip(rows["train_id"], rows["named_by"], strict=True)) == named
        for row in rows.to_dict("records"):
            expected = [s.name for s in four if row["train_id"] in top(s, side, k)]
            assert row["names"] == ", ".join(expected)
            for s in four:
                assert top(s, side, N).index(row["train_id"]) + 1 == row[s.name]
            assert found.count(row["train_id"], side) == len(expected)
        order = [(-r["named_by"], sum(r[s.name] for s in four), r["train_id"]) for r in rows.to_dict("records")]
        assert order == sorted(order)
        unnamed = sorted(set(range(N)) - set(named))
        assert all(found.count(i, side) == 0 for i in unnamed)
    for column, labels in (("given_label", TRAIN.labels), ("true_label", TRAIN.true_labels)):
        assert found.table[column].tolist() == [TRAIN.class_name(int(labels[i])) for i in found.table["train_id"]]


def test_overlap_chance_and_correlation(four: list[Scores]) -> None:
    from scipy.stats import spearmanr

    found = agreement(four, TEST, 6)
    assert found.expected == pytest.approx(6 * 6 / N)
    assert agreement(four, TEST, N + 1).expected == N
    for side in SIDES:
        shared = found.overlap(side)
        assert list(shared.index) == list(shared.columns) == list(found.names)
        for a in four:
            for b in four:
                assert shared.loc[a.name, b.name] == len({*top(a, side, 6)} & {*top(b, side, 6)})
    expected = spearmanr(torch.stack([s.column(TEST) for s in four], 1).numpy()).statistic
    assert np.allclose(found.correlation.to_numpy(), expected)
    assert list(found.correlation.index) == list(found.correlation.columns) == list(found.names)


def test_two_random_orders_share_what_chance_says() -> None:
    draw, shared = torch.Generator().manual_seed(0), []
    for _ in range(60):
        pair = [scores(name, values=torch.randperm(N, generator=draw).float()) for name in "ab"]
        shared.append(agreement(pair, TEST, 8).overlap("harmful").iloc[0, 1])
    assert np.mean(shared) == pytest.approx(8 * 8 / N, abs=4 * np.std(shared) / np.sqrt(len(shared)))


def test_the_sentences_say_what_the_numbers_are(four: list[Scores]) -> None:
    first = torch.arange(N) - 3.0  # some of the lowest are positive where k is large
    swapped = first.clone()
    swapped[[4, 9]] = swapped[[9, 4]]
    found = agreement([scores("ekfac", values=first), scores("tracin", values=swapped)], TEST, 5)
    text = found.sentences()
    assert text[0] == f"ekfac and tracin share 4 of their 5 most harmful images; chance would give {25 / N:.2f}."
    assert text[1] == "Both name training images 0, 1, 2 and 3 among the most harmful."
    assert "no proof" in text[-1]
    several = agreement([scores(n, values=v) for n, v in (("a", first), ("b", first), ("c", first.flip(0)))], TEST, 1)
    said = several.sentences()
    assert said[0].startswith("a and b share 1 of their 1 most harmful image, the most of any two; chance")
    assert said[1] == "b and c share 0, the fewest of any two."
    assert said[2] == "None is named by all; 2 of 3 name training image 0 among the most harmful."
    apart = agreement([scores("a", values=first), scores("b", values=first.flip(0))], TEST, 1).sentences()
    assert "No training image is named most helpful by two of them." in apart


def test_estimators_of_one_name_are_told_apart() -> None:
    def names(*parameters: dict[str, object] | None, name: str = "gex") -> tuple[str, ...]:
        given = [scores(name, i, **({} if p is None else {"parameters": p})) for i, p in enumerate(parameters)]
        return agreement(given, TEST).names

    assert names({"rho": 0.1, "seed": 0}, {"rho": 0.2, "seed": 0}) == ("gex (rho=0.1)", "gex (rho=0.2)")
    assert names({"rho": 0.1}, {"rho": 0.1}, None) == ("gex", "gex (2)", "gex (3)")
    assert names({"masks": "x" * 99}, {"masks": "y" * 99}) == ("gex", "gex (2)")
    assert names(None, None, name="side") == ("side (2)", "side (3)")  # a column of the table has that name


def test_what_cannot_be_compared_is_refused(four: list[Scores]) -> None:
    with pytest.raises(InvalidInput, match="two estimators or more"):
        agreement(four[:1], TEST)
    with pytest.raises(StaleResult, match="ekfac and other belong to different studies"):
        agreement([four[0], scores("other", study="two")], TEST)
    with pytest.raises(InvalidInput, match="no scores for test image 99"):
        agreement(four, 99)
    with pytest.raises(InvalidInput, match="not the same or not in the same order"):
        agreement([four[0], replace(four[1], train_ids=four[1].train_ids.flip(0))], TEST)
    with pytest.raises(NotSupported, match="mislabel scores"):
        agreement([four[0], Scores(torch.rand(N), torch.arange(N), "mislabel")], TEST)
    for k in (0, 2.5, True):
        with pytest.raises(InvalidInput, match="k is"):
            agreement(four, TEST, k)  # type: ignore[arg-type]
    found = agreement(four, TEST)
    with pytest.raises(InvalidInput, match="no side 'left'"):
        found.overlap("left")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="training image 400"):
        found.count(400)


def test_a_notebook_shows_names_as_text(four: list[Scores]) -> None:
    found = agreement([four[0], scores("<script>x</script>", 3)], TEST, 20)
    page = found._repr_html_()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;a&lt;/i&gt;" in page
    assert f"and {len(found.table) - 12} more rows" in page
    assert f"test image {TEST}" in repr(found)


def test_fifty_thousand_images_take_a_moment() -> None:
    n = 50_000
    drawn = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    many = [
        Scores(drawn[:, i : i + 1], torch.arange(n), "influence", test_ids=torch.tensor([TEST]), meta={"estimator": m})
        for i, m in enumerate("abcd")
    ]
    seconds, sorting = [], []
    for _ in range(3):
        begin = time.process_time()
        agreement(many, TEST, 20)
        seconds.append(time.process_time() - begin)
        begin = time.process_time()
        for scores in many:
            scores.values.sort(dim=0)
        sorting.append(time.process_time() - begin)
    print(f"{1e3 * min(seconds):.0f} ms, four sorts {1e3 * min(sorting):.0f}")
    assert min(seconds) < 20 * min(sorting)  # a loop over the images in Python takes hundreds of times as long


# --- which class is taken for which


@pytest.fixture(scope="module")
def small() -> ic.Study:
    return ic.Study(net(), images(60, seed=1, noise=0.3), images(50, seed=2, class_names=["a", "b", "c"]))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [None, 0, 2])
def test_confusions_are_the_mistakes_counted(small: ic.Study, split: str, label: int | None) -> None:
    labels, predicted = small.split(split).labels.tolist(), small.predictions(split).tolist()
    pairs = [(y, p) for y, p in zip(labels, predicted, strict=True) if y != p and label in (None, y)]
    table = confusions(small, split, label)
    expected = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))
    assert list(zip(table["label"], table["predicted"], strict=True)) == [pair for pair, _ in expected]
    assert table["count"].tolist() == [count for _, count in expected]
    assert table["share"].tolist() == pytest.approx([count / labels.count(pair[0]) for pair, count in expected])
    names = small.class_names
    assert table["label_name"].tolist() == [names[y] for (y, _), _ in expected]
    assert table["predicted_name"].tolist() == [names[p] for (_, p), _ in expected]


def test_confusions_refuse_what_is_no_class(small: ic.Study) -> None:
    for label in (3, -1, True):
        with pytest.raises(InvalidInput, match="0 to 2"):
            confusions(small, label=label)
