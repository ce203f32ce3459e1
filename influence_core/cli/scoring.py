"""``estimators``, ``score`` and ``relabel``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from influence_core.applications import detect, relabel, to_csv, write_csv
from influence_core.cli.console import say
from influence_core.diagnosis.resources import costs
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator, available, get, recommended
from influence_core.estimators.calibration import calibrated
from influence_core.files import check_encodable, keep, temporary, writing
from influence_core.scores import Scores
from influence_core.study import Study

WHAT = ("influence", "self_influence", "mislabel_scores", "label_influence")
Answer = tuple[dict[str, Any], str]


def listed(study: Study | None) -> pd.DataFrame:
    """The table of ``influence estimators``."""
    table = available()[["name", "gives", "needs", "good_for"]]
    if study is None:
        return table
    known = costs(study, calibrated(study)).drop(columns="what")
    found = table[["name", "gives"]].merge(known, on="name")
    for column in ("seconds", "memory_mib", "disk_mib"):
        found[column] = [None if pd.isna(value) else float(f"{value:.2g}") for value in found[column]]
    return found


def scored(study: Study, name: str, what: str, test: str, settings: dict[str, Any], out: Path | None) -> Answer:
    """Scores as a table, on stdout or in a file.

    Args:
        study: of which.
        name: of the estimator.
        what: public method.
        test: ids of test images, or "wrong".
        settings: of the estimator.
        out: file, or ``None``.

    Returns:
        Facts, and what to print.
    """
    estimator, ids = question(study, name, what, test, settings, out)
    estimator.fit(study)
    return told(study, getattr(estimator, what)(*([ids] if ids is not None else [])), out)


def question(
    study: Study, name: str, what: str, test: str, settings: dict[str, Any], out: Path | None
) -> tuple[Estimator, list[int] | None]:
    """What is asked for, before anything is computed.

    Args:
        study: of which.
        name: of the estimator.
        what: public method.
        test: ids of test images, or "wrong".
        settings: of the estimator.
        out: file, or ``None``.

    Returns:
        The estimator, not fitted, and the ids for influence.

    Raises:
        InvalidInput: if a word makes no sense.
    """
    if what not in WHAT:
        raise InvalidInput(f"--what {what!r}: choose one of {', '.join(WHAT)}")
    check_out(out)
    estimator = get(name, **settings)
    ids = test_ids(study, test) if what == "influence" else None
    if what not in estimator.gives():
        raise estimator.lacks(what)
    return estimator, ids


def check_out(out: Path | None) -> None:
    """Refuse a file that scores cannot be written to.

    Args:
        out: file, or ``None``.

    Raises:
        InvalidInput: if it is neither Parquet nor CSV.
    """
    if out is not None and out.suffix.lower() not in (".parquet", ".csv"):
        raise InvalidInput(f"--out {out}: give a name that ends in .parquet or .csv")


def told(study: Study, scores: Scores, out: Path | None) -> Answer:
    """Scores as they are printed or written, with what to know of them on stderr.

    Args:
        study: that they are about.
        scores: the numbers.
        out: file, or ``None``.

    Returns:
        Facts, and what to print.
    """
    frame = scores.to_frame()
    frame.insert(1, "sample_id", [study.train.sample_id(i) for i in scores.train_ids.tolist()])
    for caveat in scores.caveats():
        say(f"note: {caveat}")
    meta = {"kind": scores.kind, "scale": scores.scale, "meaning": scores.meaning, **scores.meta}
    if out is None:
        text = frame.to_csv(index=False, lineterminator="\n")
        return {**_plain(meta), "scores": frame.to_dict("list")}, text
    write_table(frame, meta, out)
    return {**_plain(meta), "file": str(out), "rows": len(frame)}, f"{out}: {len(frame):,} rows of {scores}"


def suggested(
    study: Study, name: str, flag: int | None, only_flagged: bool, settings: dict[str, Any], out: Path | None
) -> Answer:
    """A relabel table, on stdout or in a file.

    Args:
        study: of which.
        name: of the estimator; empty for the best by evidence.
        flag: number of images to flag, or ``None``.
        only_flagged: leave out the others.
        settings: of the estimator.
        out: file, or ``None``.

    Returns:
        Facts, and what to print.
    """
    if not name:
        name = recommended(study, "mislabel_scores")
        say(f"note: {name} looks for wrong labels, the best by evidence that this study allows; --estimator chooses")
    estimator = get(name, **settings).fit(study)
    scores = estimator.mislabel_scores()
    found = detect(study, scores)
    found = found if flag is None else found.budget(flag)
    table = relabel(study, estimator, found.threshold, scores)
    flagged = int(table["is_label_issue"].sum())
    table = table[table["is_label_issue"]] if only_flagged else table
    facts: dict[str, Any] = {"estimator": name, "rows": len(table), "flagged": flagged, "threshold": found.threshold}
    if out is None:
        known = table.astype(object).where(table.notna(), None)
        return facts | {"table": known.to_dict("records")}, to_csv(table)
    write_csv(table, out, study.class_names)
    differs = int((table["is_label_issue"] & (table["given_label"] != table["suggested_label"])).sum())
    facts |= {"file": str(out), "suggestions": differs}
    text = (
        f"{out}: {len(table):,} training images, {flagged:,} flagged by {name}, {differs:,} of them with another "
        "suggestion; write relabel, keep or exclude into the column decision"
    )
    return facts, text


def test_ids(study: Study, words: str) -> list[int]:
    """Test images that a command names.

    Args:
        study: whose they are.
        words: ids such as 3,17, or "wrong".

    Returns:
        The ids.

    Raises:
        InvalidInput: if these are no ids, or none is wrong.
    """
    if words == "wrong":
        ids = study.misclassified().tolist()
        if not ids:
            raise InvalidInput("no test image is misclassified: name some by --test 3,17")
        return [int(i) for i in ids]
    try:
        return [int(word) for word in words.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--test {words!r}: expected ids such as 3,17, or wrong") from error


def write_table(frame: pd.DataFrame, meta: dict[str, Any], out: Path) -> None:
    """Write a table as CSV or Parquet, whole or not at all.

    Args:
        frame: the table.
        meta: where it comes from, which Parquet keeps.
        out: the file.
    """
    with writing(out):
        check_encodable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary(out.parent, out.name) as part:
            if out.suffix.lower() == ".csv":
                frame.to_csv(part, index=False, lineterminator="\n")
            else:
                import pyarrow as pa
                import pyarrow.parquet as pq

                table = pa.Table.from_pandas(frame, preserve_index=False)
                known = table.schema.metadata or {}
                origin = json.dumps(meta, default=str).encode()
                pq.write_table(table.replace_schema_metadata({**known, b"influence_core": origin}), part)
            keep(part, out)


def _plain(meta: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(meta, default=str))
    return facts
