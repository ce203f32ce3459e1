from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core import Scores
from influence_core.applications import (
    Interval,
    apply_relabels,
    detect,
    heavy_tailed,
    mixture,
    otsu,
    read_csv,
    relabel,
    relabel_table,
    to_csv,
    write_csv,
)
from influence_core.applications.bootstrap import areas, bootstrap, cells_of, cumulated
from influence_core.applications.relabelling import COLUMNS
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from tests.helpers import images, net

N = 60
NAMES = ["=1+1", "@dog, <b>", "'70s"]


def make_study(noise=0.3, names=NAMES, truth=True):
    train = images(N, seed=1, noise=noise, class_names=names, name="train", filepaths=[f"-{i}.png" for i in range(N)])
    if not truth:
        train = ic.data.LabelledDataset(train.base, class_names=names)
    return ic.Study(net(), train, images(9, seed=2, class_names=names))


@pytest.fixture(scope="module")
def study():
    return make_study()


def scores_of(study, values=None, ties=True, **parts):
    if values is None:
        generator = torch.Generator().manual_seed(0)
        wrong = study.train.corrupted
        values = torch.rand(N, generator=generator, dtype=torch.float64) + (0 if wrong is None else 0.4 * wrong)
        values = (values * 8).round() if ties else values
    whole = {"kind": "mislabel", "train": study.train, "meta": {"estimator": "loss", "study": study.fingerprint}}
    return Scores(torch.as_tensor(values), torch.arange(N), **(whole | parts))


# --- detection


@pytest.mark.parametrize("ties", [True, False])
def test_curves_and_areas_are_scikit_learns(study, ties):
    scores = scores_of(study, ties=ties)
    found = detect(study, scores)
    truth, values = study.train.corrupted.numpy(), scores.values.numpy()
    assert truth.sum() == 18
    assert found.auc == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert found.ap == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    assert 0.5 < found.auc < 1
    curve = roc_curve(truth, values)
    assert np.array_equal(found.roc.to_numpy(), np.column_stack(curve))
    precision, recall, thresholds = precision_recall_curve(truth, values)
    expected = np.column_stack([recall[:-1], precision[:-1], thresholds])
    assert np.array_equal(found.pr[["recall", "precision", "threshold"]].to_numpy(), expected)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [3, 12, None])
def test_areas_of_a_resample_are_scikit_learns_with_weights(seed, levels):
    generator = np.random.default_rng(seed)
    values = generator.random(40) if levels is None else generator.integers(0, levels, 40).astype(float)
    truth = generator.random(40) < 0.3
    counts = generator.multinomial(40, np.full(40, 1 / 40), size=3)
    cells = cells_of(truth, values)
    for row in counts:
        auc, ap = areas(*cumulated(np.bincount(cells, weights=row)))
        assert auc == pytest.approx(roc_auc_score(truth, values, sample_weight=row), abs=1e-12)
        assert ap == pytest.approx(average_precision_score(truth, values, sample_weight=row), abs=1e-12)


def test_a_resample_without_wrong_labels_has_no_areas():
    cells = cells_of(np.array([True, False]), np.array([1.0, 0.0]))
    assert np.isnan(areas(*cumulated(np.bincount(cells, weights=[0, 2])))).all()
    assert areas(*cumulated(np.bincount(cells, weights=[1, 1]))) == (1.0, 1.0)


def test_interval_is_the_percentiles_of_sampling_with_replacement(study):
    scores = scores_of(study)
    found = detect(study, scores)
    truth, values = study.train.corrupted.numpy(), scores.values.numpy()
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, N, N) for _ in range(2000)]
    for interval, area, of in (
        (found.auc_interval, found.auc, roc_auc_score),
        (found.ap_interval, found.ap, average_precision_score),
    ):
        low, high = np.percentile([of(truth[ids], values[ids]) for ids in drawn], [2.5, 97.5])
        assert interval.low < area < interval.high
        # two estimates of a percentile, from 1000 and 2000 draws; their spread is about 0.006 each
        assert interval == pytest.approx((low, high), abs=0.03)


def test_bootstrap_has_a_seed(study):
    truth, values = study.train.corrupted.numpy(), scores_of(study).values.numpy()
    assert bootstrap(truth, values, 3)[:2] == bootstrap(truth, values, 3)[:2]
    assert bootstrap(truth, values, 3)[:2] != bootstrap(truth, values, 4)[:2]


def test_perfect_scores(study):
    found = detect(study, scores_of(study, study.train.corrupted.double()))
    assert (found.auc, found.ap) == (1.0, 1.0)
    assert found.auc_interval == (1.0, 1.0)
    assert sorted(found.flagged.tolist()) == study.train.corrupted.nonzero().flatten().tolist()
    assert str(Interval(0.951, 1.0)) == "95.1 to 100.0"


def test_flags_are_above_the_threshold_most_suspicious_first(study):
    values = torch.arange(N).double() % 7
    found = detect(study, scores_of(study, values), threshold=4.0)
    expected = [i for v in (6, 5) for i in range(N) if i % 7 == v]
    assert found.flagged.tolist() == expected
    assert found.threshold == 4.0
    at = found.at(4.0)
    wrong = set(study.train.corrupted.nonzero().flatten().tolist())
    hits = len(wrong & set(expected))
    assert at == {"flagged": len(expected), "precision": hits / len(expected), "recall": hits / 18}
    assert found.at(99.0) == {"flagged": 0, "precision": 0.0, "recall": 0.0}
    assert found.at(-1.0)["recall"] == 1.0


def test_unknown_truth_gives_flags_alone():
    unknown = make_study(truth=False)
    found = detect(unknown, scores_of(unknown), threshold=4.0)
    assert found.at(4.0) == {"flagged": len(found.flagged)}
    assert (found.auc, found.roc, found.pr, found.corrupted, found.ap_interval) == (None,) * 5
    assert "truth unknown" in repr(found)
    assert "AUC" not in found._repr_html_()


def test_a_training_set_without_wrong_labels_has_no_curves():
    clean = make_study(noise=0.0)
    assert detect(clean, scores_of(clean)).auc is None


def test_detection_shows_itself(study):
    html = detect(study, scores_of(study, meta={"estimator": "<script>"}))._repr_html_()
    assert "<script" not in html
    assert "AUC" in html
    assert "95 %" in html


def test_detect_refuses(study):
    influence = Scores(torch.zeros(N, 2), torch.arange(N), "influence", test_ids=torch.arange(2))
    with pytest.raises(NotSupported, match="these are influence scores"):
        detect(study, influence)
    with pytest.raises(InvalidInput, match="scores for 3 of 60 training images"):
        detect(study, Scores(torch.zeros(3), torch.arange(3), "mislabel"))
    with pytest.raises(StaleResult, match="loss scores belong to another study"):
        detect(study.edited({"4.bias": torch.ones(3).double()}), scores_of(study))


def two_groups(seed=0):
    generator = np.random.default_rng(seed)
    return torch.tensor(np.concatenate([generator.normal(0, 0.5, 400), generator.normal(4, 0.7, 100)]))


@pytest.mark.parametrize("seed", range(3))
def test_otsu_parts_two_groups(seed):
    values = two_groups(seed)
    assert not heavy_tailed(values)
    assert 1 < otsu(values) < 3


@pytest.mark.parametrize("seed", range(3))
def test_otsu_of_a_heavy_tail_does_not_land_in_it(seed):
    from skimage.filters import threshold_otsu

    values = two_groups(seed).exp()
    assert heavy_tailed(values)
    assert 90 <= int((values > otsu(values)).sum()) <= 105
    assert int((values > threshold_otsu(values.numpy())).sum()) < 70
    assert otsu(1e-7 * values) == pytest.approx(1e-7 * otsu(values))


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_otsu_of_equal_values_flags_nothing(study, value):
    values = torch.full((N,), value)
    assert otsu(values) == value
    assert len(detect(study, scores_of(study, values)).flagged) == 0


def test_otsu_with_zeros_in_a_heavy_tail():
    values = torch.cat([torch.zeros(50), torch.full((40,), 1e-3), torch.full((10,), 5.0)])
    assert int((values > otsu(values)).sum()) >= 10


# --- relabel tables


@pytest.fixture(scope="module")
def table(study):
    return relabel(study, ic.estimators.Loss().fit(study))


def test_columns_are_those_of_csv_version_2(table):
    assert ",".join(table) == (
        "schema_version,run_id,sample_id,index,split,filepath,sha256,given_label,predicted_label,suggested_label,"
        "final_label,is_label_issue,label_quality,suggestion_quality,quality_source,score,method,rank,decision,reviewer,"
        "reviewed_at,tags,note"
    )


def test_what_the_table_says(study, table):
    losses, predictions = study.losses("train"), study.predictions("train")
    found = detect(study, ic.estimators.Loss().fit(study).mislabel_scores())
    assert table["index"].tolist() == torch.argsort(-losses, stable=True).tolist()
    assert table["rank"].tolist() == list(range(1, N + 1))
    assert set(table.loc[table["is_label_issue"], "index"]) == set(found.flagged.tolist())
    assert 0 < len(found.flagged) < N
    for row in table.to_dict("records"):
        i = row["index"]
        assert row["given_label"] == NAMES[study.train.labels[i]]
        assert row["predicted_label"] == row["suggested_label"] == NAMES[predictions[i]]
        assert row["score"] == float(losses[i])
        assert row["label_quality"] == pytest.approx(1 - float(mixture(losses)[i]))
        assert row["quality_source"] == "mixture"
        assert math.isnan(row["suggestion_quality"]), "the loss knows nothing of the suggestion"
        assert row["sha256"] == study.train.sample_sha256(i)
        assert (row["sample_id"], row["filepath"], row["method"]) == (f"train-{i:06d}", f"-{i}.png", "loss")
        assert row["final_label"] == row["decision"] == ""
    assert table["run_id"].nunique() == 1
    assert study.fingerprint[:8] in table["run_id"][0]


def test_a_calibrated_detector_says_how_sure_it_is(study, tmp_path):
    with_validation = study.replaced(validation=images(24, seed=4, class_names=NAMES))
    detector = ic.estimators.CalibratedDetector(detectors="loss").fit(with_validation)
    table = relabel(with_validation, detector).set_index("index")
    p, labels = detector.label_influence().values, with_validation.train.labels
    for i in range(N):
        row = table.loc[i]
        assert row["label_quality"] == pytest.approx(float(p[i, labels[i]]))
        assert row["suggestion_quality"] == pytest.approx(float(p[i].max()))
        assert row["suggested_label"] == NAMES[int(p[i].argmax())]
        assert row["is_label_issue"] == (row["score"] > 0.5), "probabilities are cut at one half"
        assert row["quality_source"] == "planted flips"
    back = read_csv(write_csv(table.reset_index(), tmp_path / "t.csv"))
    assert back["suggestion_quality"].tolist() == pytest.approx(table["suggestion_quality"].tolist(), abs=0)


def test_the_former_version_is_read(study, table, tmp_path):
    """As a file of version 1 was: without two columns, and with the model's probability as its quality."""
    old = table.drop(columns=["suggestion_quality", "quality_source"])
    old = old.assign(schema_version="1", label_quality=0.25, decision=["relabel", *[""] * (N - 1)])
    path = tmp_path / "old.csv"
    protected = pd.read_csv(io.StringIO(to_csv(table)), dtype=str, keep_default_na=False)
    protected = protected.drop(columns=["suggestion_quality", "quality_source"])
    protected.assign(**{name: old[name] for name in ("schema_version", "label_quality", "decision")}).to_csv(
        path, index=False, lineterminator="\n"
    )
    back = read_csv(path)
    assert list(back) == COLUMNS
    assert set(back["schema_version"]) == {"2"}
    assert set(back["quality_source"]) == {"self-confidence"}
    assert back["suggestion_quality"].isna().all()
    assert set(back["label_quality"]) == {0.25}
    for source in (path, old):
        changed = apply_relabels(study.train, source)
        assert (changed.labels != study.train.labels).nonzero().flatten().tolist() == [
            i for i in [int(table["index"][0])] if table["suggested_label"][0] != table["given_label"][0]
        ]
    path.write_text(old.drop(columns="note").to_csv(index=False))
    with pytest.raises(InvalidInput, match="lacks the columns note of relabel CSV version 1"):
        read_csv(path)


def test_suggestions_follow_label_influence(study):
    with_validation = study.replaced(validation=images(12, seed=4, class_names=NAMES))
    estimator = ic.estimators.FVM(steps=3, batch_size=4).fit(with_validation)
    table = relabel(with_validation, estimator).set_index("index")
    best = estimator.label_influence().values.argmax(1)
    assert [table.loc[i, "suggested_label"] for i in range(N)] == [NAMES[k] for k in best]
    scores = estimator.mislabel_scores()
    estimator.mislabel_scores = None  # not asked for a second time
    pd.testing.assert_frame_equal(relabel(with_validation, estimator, scores=scores).set_index("index"), table)
    with pytest.raises(StaleResult, match="another study"):
        relabel(study, estimator, scores=scores)


def test_the_run_id_tells_settings_apart(study):
    one, two = (scores_of(study).with_meta(parameters={"rho": r}) for r in (0.05, 0.1))
    tables = [relabel_table(study, s, study.train.labels) for s in (one, two, one)]
    ids = [t["run_id"][0] for t in tables]
    assert ids[0] == ids[2] != ids[1]


def test_pandas_gives_back_every_column(table, tmp_path):
    path = write_csv(table, tmp_path / "relabel.csv", NAMES)
    back = pd.read_csv(path)
    assert list(back) == list(table)
    for column in ("index", "rank", "score", "label_quality", "is_label_issue", "sha256", "sample_id", "method"):
        assert back[column].tolist() == table[column].tolist()
    given = [name.removeprefix("'") if name[:2] in ("'=", "'@", "''") else name for name in back["given_label"]]
    assert given == table["given_label"].tolist()
    assert json.loads((tmp_path / "classes.json").read_text()) == {name: k for k, name in enumerate(NAMES)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.json", "relabel.csv"]
    assert b"\r" not in path.read_bytes()


def test_no_cell_starts_a_formula(table, tmp_path):
    import csv

    path = write_csv(table, tmp_path / "relabel.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = [c for c in COLUMNS if c not in ("index", "rank", "score", "label_quality", "suggestion_quality")]
    assert not [cell for row in rows for c in text if (cell := row[c]).startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert {row["given_label"] for row in rows} == {"'=1+1", "'@dog, <b>", "''70s"}
    assert rows[0]["filepath"].startswith("'-")


def test_round_trip_is_exact(table, tmp_path):
    back = read_csv(write_csv(table, tmp_path / "relabel.csv"))
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_exact=True)
    assert to_csv(back) == to_csv(table)


AWKWARD = [
    *("=1", "+1", "-1", "@x", "'", "''=", "\tx", "a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "x\n", " x ", "\\"),
    *("NA", "None", "nan", "", "null", "#N/A", "1", "1.0", "True", "ü→猫😀", "\ufeffx", "\x85", "\u2028", "\x1f"),
]
CELL = st.sampled_from(AWKWARD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8
)
TEXTS = ("filepath", "given_label", "predicted_label", "suggested_label", "final_label", "reviewer", "tags", "note")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(*[CELL] * len(TEXTS)), min_size=1, max_size=4), score=st.floats(allow_nan=False))
def test_any_text_comes_back_unharmed(table, tmp_path, cells, score):
    written = table.head(len(cells)).copy()
    for column, values in zip(TEXTS, zip(*cells, strict=True), strict=True):
        written[column] = list(values)
    written["score"] = score
    back = read_csv(write_csv(written, tmp_path / "t.csv"))
    for column in COLUMNS:
        same = back[column].isna() & written[column].isna() | (back[column] == written[column])
        assert same.all(), column


@pytest.mark.parametrize("name", AWKWARD)
def test_each_awkward_label_by_itself(table, tmp_path, name):
    written = table.head(2).assign(given_label=name, note=name)
    back = read_csv(write_csv(written, tmp_path / "t.csv"))
    assert back["given_label"].tolist() == back["note"].tolist() == [name, name]


def test_missing_cells_of_a_frame_are_empty_ones(table, tmp_path):
    written = table.head(3).copy()
    written["final_label"] = pd.Series([None, float("nan"), "=1+1"], dtype=object)
    assert read_csv(write_csv(written, tmp_path / "t.csv"))["final_label"].tolist() == ["", "", "=1+1"]


def test_what_a_spreadsheet_does_to_a_file(table, tmp_path):
    """A byte-order mark, CRLF, capitals in booleans, another order of columns and one more of them."""
    text = to_csv(table[COLUMNS]).replace("True", "TRUE").replace("False", "FALSE")
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    frame = frame[COLUMNS[::-1]].assign(mine="x")
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + frame.to_csv(index=False, lineterminator="\r\n").encode())
    pd.testing.assert_frame_equal(read_csv(path), table, check_dtype=False)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("index", "one", "line 3 of .*: index is 'one', expected a number"),
        ("score", "", "line 3 of .*: score is '', expected a number"),
        ("rank", "1.5", "rank is '1.5'"),
        ("is_label_issue", "maybe", "line 3 of .*: is_label_issue is 'maybe', expected True or False"),
        ("decision", "relable", "line 3 of .*: decision is 'relable', expected one of relabel, keep, exclude, unsure"),
        ("schema_version", "3", "schema version '3', this package reads '1' and '2'"),
        ("suggestion_quality", "high", "line 3 of .*: suggestion_quality is 'high'"),
    ],
)
def test_an_edited_cell_that_cannot_be_read_is_named(table, study, tmp_path, column, cell, message):
    written = table.head(3).astype(object)
    written.loc[1, column] = cell
    path = tmp_path / "t.csv"
    path.write_text(written.to_csv(index=False))
    with pytest.raises(InvalidInput, match=message):
        read_csv(path)
    with pytest.raises(InvalidInput, match=message):
        apply_relabels(study.train, written)


def test_files_that_are_no_relabel_csv(table, tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(InvalidInput, match=r"there is no file .*t\.csv"):
        read_csv(path)
    for content in (b"", b"\xff\xfe\x00\x01", b'a,b\n"unclosed'):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"t\.csv (cannot be read|is not in UTF-8|lacks the columns)"):
            read_csv(path)
    path.write_bytes(table.to_csv(index=False).encode("utf-16"))
    with pytest.raises(InvalidInput, match="save it as CSV UTF-8"):
        read_csv(path)
    path.write_text(table.drop(columns=["sha256", "note"]).to_csv(index=False))
    with pytest.raises(InvalidInput, match="lacks the columns sha256, note"):
        read_csv(path)
    with pytest.raises(InvalidInput, match="the table lacks the columns sha256"):
        to_csv(table.drop(columns=["sha256"]))
    lines = [line.replace(f"-of-{N},", ",") for line in to_csv(table).splitlines()]  # as before rows were counted
    path.write_text("\n".join([*lines[:2], lines[2].rsplit(",", 5)[0]]) + "\n")
    assert read_csv(path)["note"].tolist() == ["", ""]
    path.write_text("\n".join([*lines[:2], lines[2].rsplit(",", 18)[0]]) + "\n")
    with pytest.raises(InvalidInput, match="line 3"):
        read_csv(path)


# --- and back into the dataset


def reviewed(table, **decisions):
    """A table with decisions on some images: relabel to a name, or exclude, keep, unsure."""
    result = table.copy()
    for key, decision in decisions.items():
        row = result["index"] == int(key[1:])
        is_word = decision in ("exclude", "keep", "unsure", "relabel")
        result.loc[row, "decision"] = decision if is_word else "relabel"
        result.loc[row, "final_label"] = "" if is_word else decision
    return result


def test_decisions_go_into_a_new_dataset(study, table, tmp_path):
    before = study.train.labels.clone()
    first = table.set_index("index")["suggested_label"]
    other = {i: NAMES[(before[i] + 1) % 3] for i in (2, 5)}
    edited = reviewed(table, i2=other[2], i5=other[5], i7="relabel", i8="keep", i9="unsure")
    for source in (edited, write_csv(edited, tmp_path / "t.csv"), str(tmp_path / "t.csv")):
        after = apply_relabels(study.train, source)
        expected = before.clone()
        expected[2], expected[5], expected[7] = (before[2] + 1) % 3, (before[5] + 1) % 3, NAMES.index(first[7])
        assert torch.equal(after.labels, expected)
        assert torch.equal(study.train.labels, before)
        assert torch.equal(after.true_labels, study.train.true_labels)
    assert len(apply_relabels(study.train, table)) == N


def test_excluded_images_are_left_out(study, table):
    edited = reviewed(table, i0="exclude", i4="exclude", i5=NAMES[0])
    after = apply_relabels(study.train, edited)
    kept = [i for i in range(N) if i not in (0, 4)]
    assert after.filepaths == [f"-{i}.png" for i in kept]
    assert after.labels[kept.index(5)] == 0
    assert torch.equal(after.batch([0])[0], study.train.batch([1])[0])


def test_flagged_takes_every_suggestion_without_review(study, table):
    after = apply_relabels(study.train, reviewed(table, i0="exclude"), accept="flagged")
    expected = study.train.labels.clone()
    for row in table.to_dict("records"):
        if row["is_label_issue"]:
            expected[row["index"]] = NAMES.index(row["suggested_label"])
    assert torch.equal(after.labels, expected)
    assert not torch.equal(after.labels, study.train.labels)
    as_text = table.assign(is_label_issue=table["is_label_issue"].astype(str))
    assert torch.equal(apply_relabels(study.train, as_text, accept="flagged").labels, expected)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("given_label", "@dog, <b>", "train-000004 was given '@dog, <b>' in the table but '=1\\+1' in the dataset"),
        ("given_label", "", "was given ''"),
        ("sha256", "0" * 64, "train-000004 is another image in the dataset"),
        ("index", N, f"train-000004 has index {N}, the dataset ends at {N - 1}"),
        ("index", -1, "has index -1"),
        ("index", 6, "is another image|is there twice"),
    ],
)
def test_a_table_of_other_data_is_refused_and_changes_nothing(study, table, column, value, message):
    edited = reviewed(table, i4=NAMES[2], i5=NAMES[(study.train.labels[5] + 1) % 3])
    row = edited["index"] == 4
    assert study.train.labels[4] == 0
    edited.loc[row, column] = value
    before = study.train.labels.clone()
    with pytest.raises(InvalidInput, match=rf"does not match the dataset: .*({message}).*Nothing was changed"):
        apply_relabels(study.train, edited)
    after = apply_relabels(study.train, edited, on_conflict="skip")
    assert torch.equal(study.train.labels, before)
    expected = before.clone()
    expected[5] = (before[5] + 1) % 3
    assert torch.equal(after.labels, expected)


def test_two_rows_about_one_image_are_refused(study, table):
    twice = pd.concat([reviewed(table, i3=NAMES[1]), reviewed(table, i3=NAMES[2])])
    with pytest.raises(InvalidInput, match="is there twice"):
        apply_relabels(study.train, twice)
    assert apply_relabels(study.train, twice, on_conflict="skip").labels[3] == 1


def test_a_table_without_hashes_is_taken_by_its_labels(study, table):
    edited = reviewed(table, i3=NAMES[1]).assign(sha256="")
    assert apply_relabels(study.train, edited).labels[3] == 1
    edited["sha256"] = None
    assert apply_relabels(study.train, edited).labels[3] == 1


def test_labels_that_are_no_class_and_unknown_options(study, table):
    with pytest.raises(InvalidInput, match="train-000003 is to become 'cow', which is none of =1"):
        apply_relabels(study.train, reviewed(table, i3="cow"))
    with pytest.raises(InvalidInput, match="accept='all'"):
        apply_relabels(study.train, table, accept="all")
    with pytest.raises(InvalidInput, match="on_conflict='ask'"):
        apply_relabels(study.train, table, on_conflict="ask")
    with pytest.raises(InvalidInput, match="lacks the columns"):
        apply_relabels(study.train, table[["index"]])


def test_classes_without_names_are_numbers():
    base = images(6).batch(range(6))[0]
    train = ic.data.LabelledDataset(TensorDataset(base, torch.tensor([0, 1, 1, 0, 1, 0])))
    study = ic.Study(net(), train, images())
    table = relabel(study, ic.estimators.Loss().fit(study))
    after = apply_relabels(study.train, reviewed(table, i0="2", i1="0"))
    assert after.labels.tolist() == [2, 0, 1, 0, 1, 0]
    with pytest.raises(InvalidInput, match="'two', which is none of 0, 1"):
        apply_relabels(study.train, reviewed(table, i0="two"))


def test_the_whole_loop_on_digits(demo, tmp_path):
    """Flag, write, read, apply: the labels get better, and the dataset can be trained on again."""
    estimator = ic.estimators.Loss().fit(demo)
    path = write_csv(relabel(demo, estimator), tmp_path / "digits.csv", demo.class_names)
    after = apply_relabels(demo.train, path, accept="flagged")
    assert int(after.corrupted.sum()) < int(demo.train.corrupted.sum()) / 2
    assert demo.replaced(train=after).fingerprint != demo.fingerprint


# --- files that are not what was written


@pytest.mark.parametrize("kept", [1, 30, N - 1])
def test_a_file_cut_at_a_line_end_is_named(study, table, tmp_path, kept):
    path = write_csv(table, tmp_path / "t.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: 1 + kept]))
    for take in (read_csv, lambda p: apply_relabels(study.train, p)):
        with pytest.raises(InvalidInput, match=rf"t\.csv has {kept} of {N} rows, {N - kept} are missing"):
            take(path)
    path.write_text("".join(lines[:5] + lines[9:]))
    with pytest.raises(InvalidInput, match=rf"{N - 4} of {N} rows, 4 are missing"):
        read_csv(path)
    assert len(apply_relabels(study.train, path, on_conflict="skip")) == N
    path.write_text("".join(lines).replace(f"-of-{N},", ","))  # as before rows were counted
    assert len(read_csv(path)) == N


def test_a_file_cut_within_its_last_row_is_named(table, tmp_path):
    path = write_csv(table, tmp_path / "t.csv")
    path.write_text(path.read_text().rsplit(",", 5)[0])
    with pytest.raises(InvalidInput, match=r"t\.csv ends within its last row, after 18 cells"):
        read_csv(path)


def test_a_filtered_table_is_whole(study, table, tmp_path):
    flagged = reviewed(table[table["is_label_issue"]], i3=NAMES[1])
    path = write_csv(flagged, tmp_path / "t.csv")
    again = read_csv(path)
    assert 0 < len(again) == len(flagged) < N
    assert set(again["run_id"]) == set(table["run_id"])
    assert read_csv(write_csv(again.head(3), path)).shape[0] == 3  # written again, counted again
    raw = pd.read_csv(write_csv(flagged, path), keep_default_na=False)
    assert torch.equal(
        apply_relabels(study.train, raw[raw["decision"] == "relabel"]).labels,
        apply_relabels(study.train, flagged).labels,
    )


def test_rows_of_two_runs_are_named(study, table, tmp_path):
    other = table.assign(run_id="b-el2n-c")
    both = pd.concat([table.head(20), other.tail(20)])
    for source in (both, write_csv(both, tmp_path / "t.csv")):
        with pytest.raises(InvalidInput, match=r"rows of 2 runs, .*loss.* and b-el2n-c: give one table"):
            apply_relabels(study.train, source)
    with pytest.raises(InvalidInput, match=r"of the run b-el2n-c, expected .*-loss-"):
        apply_relabels(study.train, other, run_id=table["run_id"][0])
    assert len(apply_relabels(study.train, table, run_id=table["run_id"][0])) == N


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "test", "train-000004 is of the test set, the dataset is the train set"),
        ("sample_id", "train-000005", "train-000005 has index 4 of the train set: the row was mixed up"),
        ("sample_id", "test-000004", "test-000004 has index 4 of the train set"),
    ],
)
def test_a_row_of_another_split_or_sample_is_named(study, table, column, value, message):
    edited = reviewed(table, i4=NAMES[2])
    edited.loc[edited["index"] == 4, column] = value
    with pytest.raises(InvalidInput, match=message):
        apply_relabels(study.train, edited)
    assert torch.equal(apply_relabels(study.train, edited, on_conflict="skip").labels, study.train.labels)


@pytest.mark.parametrize("names", [["", "dog", "cow"], ["", '""', '"'], ["dog", '""', "cow"]])
def test_a_class_with_an_empty_name_can_be_chosen(tmp_path, names):
    study = make_study(names=names)
    table = relabel(study, ic.estimators.Loss().fit(study))
    cells = [n + '""' if "" in names and set(n) <= {'"'} else n for n in names]
    wanted = (study.train.labels + 1) % 3
    table["decision"] = "relabel"
    table["final_label"] = [cells[int(wanted[i])] for i in table["index"]]
    for source in (table, write_csv(table, tmp_path / "t.csv")):
        assert torch.equal(apply_relabels(study.train, source).labels, wanted)
    if "" in names:
        with pytest.raises(InvalidInput, match=r'class with an empty name: write "" \(two quotes\)'):
            apply_relabels(study.train, table.assign(final_label=""))


def test_a_table_that_cannot_be_written_leaves_nothing_behind(table, tmp_path):
    path = write_csv(table, tmp_path / "t.csv")
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=r"t\.csv cannot be written.*\\ud800.*take them out"):
        write_csv(table.assign(note=pd.Series(["\ud800"] * N, dtype=object)), path, NAMES)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_csv(table, tmp_path / "none" / "t.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    assert path.read_bytes() == before


def test_numbers_that_pandas_made_of_labels(study, tmp_path):
    for names in (["0", "1", "2"], None):
        numbered = make_study(names=names)
        table = reviewed(relabel(numbered, ic.estimators.Loss().fit(numbered)), i3="2")
        path = write_csv(table, tmp_path / "t.csv")
        plain = pd.read_csv(path)
        assert "2.0" in plain["final_label"].astype(str).tolist()
        plain.to_csv(path, index=False)
        for source in (plain, path):
            assert torch.equal(
                apply_relabels(numbered.train, source).labels, apply_relabels(numbered.train, table).labels
            )
        floats = table.assign(**{c: [f"{cell}.0" for cell in table[c]] for c in ("given_label", "suggested_label")})
        assert apply_relabels(numbered.train, floats).labels[3] == 2
    odd = make_study(names=["1", "1.0", "2"])
    table = reviewed(relabel(odd, ic.estimators.Loss().fit(odd)), i3="1.0")
    assert apply_relabels(odd.train, table).labels[3] == 1


@pytest.mark.parametrize("name", ["NA", "-neg"])
def test_a_frame_that_pandas_read_by_itself(tmp_path, name):
    study = make_study(names=["dog", name, "cow"])
    path = write_csv(relabel(study, ic.estimators.Loss().fit(study)), tmp_path / "t.csv")
    with pytest.raises(InvalidInput, match=r"does not match.*read it with ic\.applications\.read_relabels\(path\)"):
        apply_relabels(study.train, pd.read_csv(path))
    assert len(apply_relabels(study.train, path)) == N


def test_a_count_of_thousands_of_digits(table, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table.assign(run_id="x-of-" + "9" * 5000).to_csv(index=False))
    assert len(read_csv(path)) == N


@pytest.mark.parametrize("cell", [float("inf"), 814.7, "9" * 5000, float("nan"), None, "x" * 5000])
def test_a_number_that_is_none(table, study, cell):
    edited = table.astype({"rank": object})
    edited.loc[1, "rank"] = cell
    with pytest.raises(InvalidInput, match=r"line 3 of the table: rank is .* expected a number") as caught:
        apply_relabels(study.train, edited)
    assert len(str(caught.value)) < 300
    assert len(apply_relabels(study.train, table.astype({"rank": float}))) == N


def test_the_counts_that_are_in_a_file_are_named(table, tmp_path):
    both = pd.concat([table.head(3).assign(run_id="a-of-50"), table.tail(3).assign(run_id="b-of-40")])
    path = tmp_path / "t.csv"
    path.write_text(both.to_csv(index=False))
    with pytest.raises(
        InvalidInput, match=r"take '-of-40', '-of-50' out of the column run_id; to filter .*read_relabels"
    ):
        read_csv(path)


def test_what_spreadsheets_make_of_a_table(study, table, tmp_path):
    path = write_csv(reviewed(table, i4=NAMES[1]), tmp_path / "t.csv")
    path.write_text(path.read_text() + ("," * (len(COLUMNS) - 1) + "\n") * 2)
    assert len(read_csv(path)) == N
    text = pd.read_csv(path, dtype=str, keep_default_na=False).to_csv(index=False, sep=";")
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"t\.csv is separated by semicolons.*save it with commas"):
        read_csv(path)


def test_decisions_in_any_case(study, table):
    edited = reviewed(table, i4=NAMES[1])
    loud = edited.assign(decision=[f" {cell.capitalize()} " for cell in edited["decision"]])
    assert torch.equal(apply_relabels(study.train, loud).labels, apply_relabels(study.train, edited).labels)
