from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_curve

import influence_core as ic
from influence_core import Coverage, Scores
from influence_core.errors import InvalidInput, NotSupported
from influence_core.models import load_tensors, save_tensors
from tests.helpers import images

EVIL = ["<script>alert(1)</script>", "=1+1", "<b>&"]
VALUES = torch.tensor([[1.0, -3.0], [2.0, 5.0], [2.0, -3.0], [-1.0, 0.0], [2.0, 0.0], [-1.0, 9.0]])


def influence(**parts):
    train = images(6, noise=0.5, class_names=EVIL, name="train")
    test = images(9, seed=2, class_names=EVIL, name="test")
    whole = {"values": VALUES, "train_ids": torch.arange(6), "kind": "influence", "test_ids": torch.tensor([7, 4])}
    return Scores(**(whole | {"train": train, "test": test} | parts))


def mislabel(values=(0.5, 2.0, 2.0, -1.0, 0.0, 7.0), **parts):
    parts = {"train": images(6, noise=0.5, class_names=EVIL), "kind": "mislabel"} | parts
    return Scores(torch.tensor(values), torch.arange(6), **parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"kind": "mislable"}, "no kind of scores 'mislable'"),
        (
            {"values": VALUES[:, 0]},
            r"influence scores have shape \(6,\) for 6 training images; expected \[N, columns\]",
        ),
        ({"values": VALUES[:4]}, r"shape \(4, 2\) for 6 training images"),
        ({"kind": "mislabel", "test_ids": None}, r"mislabel scores have shape \(6, 2\).*expected \[N\]"),
        ({"test_ids": None}, "test_ids belong to influence scores"),
        ({"kind": "label_influence"}, "test_ids belong to influence scores"),
        ({"test_ids": torch.arange(3)}, "3 test ids for 2 columns"),
    ],
)
def test_shapes(parts, message):
    with pytest.raises(InvalidInput, match=message):
        influence(**parts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_image_with_a_broken_score_is_named(value):
    values = VALUES.clone()
    values[3, 1] = value
    with pytest.raises(InvalidInput, match=rf"influence score of training image 13 is {value}"):
        influence(values=values, train_ids=torch.arange(10, 16))


def test_order_of_top_helpful_and_harmful():
    scores = influence()
    assert scores.top(7, 4)["train_id"].tolist() == [1, 2, 4, 0]
    assert scores.helpful(7, 4)["train_id"].tolist() == [1, 2, 4, 0]
    assert scores.harmful(7, 3)["train_id"].tolist() == [3, 5, 0]
    assert scores.harmful(4, 3)["train_id"].tolist() == [0, 2, 3]
    assert scores.harmful(4, 3)["score"].tolist() == [-3.0, -3.0, 0.0]
    assert mislabel().top(k=3)["train_id"].tolist() == [5, 1, 2]
    assert mislabel().top(k=2, lowest=True)["train_id"].tolist() == [3, 4]
    assert len(mislabel().top(k=99)) == 6
    assert len(mislabel().top(k=0)) == 0


def test_top_speaks_of_ids_not_of_rows():
    ids = torch.tensor([5, 4, 3, 2, 1, 0])
    frame = influence(train_ids=ids).top(4, 2)
    assert frame["train_id"].tolist() == [0, 4]
    train = influence().train
    assert frame["given_label"].tolist() == [EVIL[train.labels[0]], EVIL[train.labels[4]]]
    assert frame["true_label"].tolist() == [EVIL[train.true_labels[0]], EVIL[train.true_labels[4]]]
    assert frame["rank"].tolist() == [1, 2]
    assert list(influence(train=None).top(4, 1)) == ["rank", "train_id", "score"]


def test_columns():
    assert torch.equal(influence().column(4), VALUES[:, 1])
    with pytest.raises(InvalidInput, match="no scores for test image 1; there are some for 7, 4"):
        influence().column(1)
    with pytest.raises(InvalidInput, match="say which test image: one of 7, 4"):
        influence().top()
    with pytest.raises(InvalidInput, match="mislabel scores have no column"):
        mislabel().top(3)
    with pytest.raises(NotSupported, match="harmful images belong to influence scores; these are mislabel"):
        mislabel().harmful(3)
    with pytest.raises(NotSupported, match="helpful"):
        mislabel().helpful(3)


def test_roc_is_scikit_learns():
    scores = mislabel()
    truth = scores.train.corrupted.numpy()
    assert 0 < truth.sum() < 6
    expected = roc_curve(truth, scores.values.numpy())
    got = scores.roc()
    for column, values in zip(("false_positive_rate", "true_positive_rate", "threshold"), expected, strict=True):
        assert np.array_equal(got[column], values)


def test_no_roc():
    with pytest.raises(NotSupported, match="these are influence scores"):
        influence().roc()
    with pytest.raises(NotSupported, match="true labels"):
        mislabel(train=None).roc()
    with pytest.raises(NotSupported, match="0 of 6 are wrong"):
        mislabel(train=images(6)).roc()


@pytest.mark.parametrize("scores", [influence(), mislabel()], ids=["influence", "mislabel"])
def test_csv(scores, tmp_path):
    scores.to_csv(tmp_path / "s.csv")
    back = pd.read_csv(tmp_path / "s.csv")
    assert back["train_id"].tolist() == list(range(6))
    columns = ["test_7", "test_4"] if scores.kind == "influence" else ["score"]
    assert list(back) == ["train_id", *columns]
    assert np.array_equal(back[columns].to_numpy(np.float32).squeeze(), scores.values.numpy())
    assert b"\r" not in (tmp_path / "s.csv").read_bytes()


def test_label_influence_frame():
    scores = Scores(VALUES, torch.arange(6), "label_influence", train=images(6, class_names=EVIL))
    assert list(scores.to_frame()) == ["train_id", f"label_{EVIL[0]}", f"label_{EVIL[1]}"]
    assert list(Scores(VALUES, torch.arange(6), "label_influence").to_frame()) == ["train_id", "label_0", "label_1"]


def test_save_and_load(tmp_path):
    meta = {"estimator": "fvm", "parameters": {"rho": 0.05, "last": None}, "seconds": 1.25, "study": "ab"}
    before = influence(scale="nats", coverage=Coverage(0.5, 0.25), meta=meta)
    before.save(tmp_path / "s.safetensors")
    after = Scores.load(tmp_path / "s.safetensors", train=before.train)
    assert torch.equal(after.values, before.values)
    assert torch.equal(after.train_ids, before.train_ids)
    assert torch.equal(after.test_ids, before.test_ids)
    assert (after.kind, after.scale, after.coverage, after.meta) == (before.kind, "nats", Coverage(0.5, 0.25), meta)
    assert after.train is before.train
    assert after.test is None
    mislabel().save(tmp_path / "m.safetensors")
    assert Scores.load(tmp_path / "m.safetensors").test_ids is None


def test_loading_what_holds_no_scores(tmp_path):
    path = tmp_path / "s.safetensors"
    save_tensors(path, {"a": torch.ones(1)})
    with pytest.raises(InvalidInput, match="holds no scores"):
        Scores.load(path)
    influence().save(path)
    for facts in ("{", "{}", "[]", '{"coverage": [1, 1], "kind": "mislabel", "extra": 1}'):
        save_tensors(path, load_tensors(path), {"scores": facts})
        with pytest.raises(InvalidInput, match=r"s\.safetensors"):
            Scores.load(path)
    torch.save({"values": VALUES}, tmp_path / "s.pt")
    with pytest.raises(InvalidInput, match=r"s\.pt"):
        Scores.load(tmp_path / "s.pt")


def test_with_meta_and_repr():
    scores = mislabel(meta={"estimator": "gex"})
    more = scores.with_meta(note="x")
    assert (more.meta, scores.meta) == ({"estimator": "gex", "note": "x"}, {"estimator": "gex"})
    assert repr(scores) == "Scores(gex: mislabel, 6, rank only; large: probably mislabelled)"


@pytest.mark.parametrize(
    "scores",
    [
        influence(test_ids=torch.tensor([3, 4])),
        mislabel(),
        mislabel(train=None),
        Scores(VALUES, torch.arange(6), "label_influence", train=images(6, class_names=EVIL)),
        influence(meta={"estimator": "<script>x</script>", "seconds": 2.0}),
    ],
)
def test_a_notebook_never_runs_a_class_name(scores):
    html = scores._repr_html_()
    assert "<script" not in html
    assert "<b>&<" not in html
    if scores.train is not None:
        assert "&lt;script&gt;" in html
        assert "=1+1" in html


@pytest.mark.parametrize(
    ("parts", "sentences"),
    [
        ({}, ["Only the order of the numbers means something."]),
        ({"scale": "nats"}, ["The numbers are in nats of loss."]),
        ({"coverage": Coverage(0.9999, 0.2)}, []),
        ({"meta": {"evidence": "Weak evidence."}}, ["Weak evidence."]),
        (
            {"coverage": Coverage(0.085, 0.414)},
            ["They come from 8.5% of the weights, which carry 41% of the gradients' squared norm."],
        ),
        ({"meta": {"residual": None, "converged": True, "warnings": []}}, []),
        ({"meta": {"residual": 0.0}}, ["Solved exactly."]),
        ({"meta": {"residual": 1.23e-4, "converged": True}}, ["Solved to a relative residual of 0.0001."]),
        (
            {"meta": {"residual": 0.5, "converged": False}},
            ["Solved to a relative residual of 0.5.", "The solver stopped before it converged."],
        ),
        (
            {"meta": {"residual": 0.5, "converged": False, "warnings": ["It stopped after 3 products."]}},
            ["Solved to a relative residual of 0.5.", "It stopped after 3 products."],
        ),
        (
            {"meta": {"unidentified": ["The loss is a lambda."], "warnings": ["No edit does better.", "Few images."]}},
            ["No edit does better.", "Few images.", "The loss is a lambda."],
        ),
    ],
)
def test_caveats(parts, sentences):
    scale = [] if "scale" in parts else ["Only the order of the numbers means something."]
    scores = mislabel(**parts)
    assert scores.caveats() == (scale + sentences if parts else sentences)
    html = scores._repr_html_().replace("&#x27;", "'")
    assert all(sentence in html for sentence in scores.caveats())


NATS, DIVISOR = "The numbers are in nats of loss.", "They are for a mean loss that keeps its divisor N."
SIZES = "The numbers are in nats of loss, but their size is right only for models that are linear in their weights."


@pytest.mark.parametrize(
    ("meta", "sentences"),
    [
        ({"linear": True}, [NATS, DIVISOR]),
        ({"linear": False}, [SIZES, DIVISOR]),
        ({}, [SIZES, DIVISOR]),
        ({"retrained": True}, [NATS]),
        ({"linear": False, "residual": 0.0}, [SIZES, DIVISOR, "Solved exactly."]),
    ],
)
def test_sizes_of_influence_hold_where_the_model_is_linear_in_its_weights(meta, sentences):
    assert influence(scale="nats", meta=meta).caveats() == sentences
    assert influence(scale="rank only", meta={"linear": False}).caveats() == [
        "Only the order of the numbers means something."
    ]


def test_a_notebook_never_runs_a_caveat():
    html = mislabel(meta={"warnings": ["class '<script>x</script>' has no image"]})._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_html_shows_the_right_images():
    html = influence()._repr_html_()
    harmful, helpful = html.split("most harmful")[1].split("most helpful")
    assert harmful.index("#3 ") < harmful.index("#5 ") < harmful.index("#0 ")
    assert helpful.index("#1 ") < helpful.index("#2 ") < helpful.index("#4 ")
    assert "data:image/webp;base64," in html
    many = influence(values=VALUES.repeat(1, 2), test_ids=torch.tensor([7, 4, 1, 0]))
    assert "and 2 more test images" in many._repr_html_()


def test_html_without_pictures():
    from torch.utils.data import TensorDataset

    rows = ic.data.LabelledDataset(TensorDataset(torch.rand(6, 5), torch.zeros(6).long()), class_names=["<i>"])
    html = mislabel(train=rows)._repr_html_()
    assert "&lt;i&gt;" in html
    assert "<img" not in html


def test_thumbnails_are_webp_of_the_right_size():
    import io

    import numpy as np
    from PIL import Image

    data = images(3)
    thumb = Image.open(io.BytesIO(ic.pictures.thumbnail(data, 1, size=48)))
    assert (thumb.format, thumb.size) == ("WEBP", (48, 48))
    shown = np.asarray(thumb.convert("L"), dtype=float)[6::12, 6::12]
    assert np.abs(shown - np.asarray(data.picture(1), dtype=float)).mean() < 12  # WEBP loses a little
    wide = ic.data.LabelledDataset(data.base, pictures=lambda i: np.zeros((10, 400), np.uint8))
    assert Image.open(io.BytesIO(ic.pictures.thumbnail(wide, 0, size=40))).size == (40, 1)


def test_scores_of_before_there_were_checksums(tmp_path):
    import safetensors.torch

    path, before = tmp_path / "m.safetensors", mislabel()
    before.save(path)
    texts = {"scores": json.dumps(ic.models.read_facts(path, "scores"))}
    whole = path.read_bytes()
    safetensors.torch.save_file(load_tensors(path), path, texts)
    assert torch.equal(Scores.load(path).values, before.values)
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(InvalidInput, match=r"m\.safetensors was changed or damaged"):
        Scores.load(path)


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3, 7, 39, 40, 41])
def test_the_extreme_ones_are_those_of_a_whole_sort_also_where_scores_are_equal(lowest: bool, k: int) -> None:
    values = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(k)).float()
    scores = Scores(values, torch.arange(40), "mislabel")
    expected = torch.sort(values, descending=not lowest, stable=True).indices[:k].tolist()
    assert scores.top(k=k, lowest=lowest)["train_id"].tolist() == expected
