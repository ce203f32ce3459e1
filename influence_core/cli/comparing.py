"""``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from influence_core.cli.scoring import Answer, check_out, test_ids, write_table
from influence_core.errors import InvalidInput
from influence_core.evaluation import compare
from influence_core.store import Store
from influence_core.study import Study

Evidence = tuple[int | None, int | None, float | None]


def compared(
    study: Study,
    names: str,
    test: str | None,
    k: int,
    evidence: Evidence,
    seeds: int,
    out: Path | None,
    *,
    job: bool,
) -> Answer:
    """A comparison as a table with sentences, or in a file.

    Args:
        study: of which.
        names: of estimators, with commas between.
        test: ids of test images, "wrong", or ``None`` for at most 20 misclassified ones.
        k: of the top k.
        evidence: subsets to train on, images to leave out one at a time, share to train without; ``None`` for none.
        seeds: trainings of each.
        out: file, or ``None``.
        job: whether a process of its own trains.

    Returns:
        Facts, and what to print.

    Raises:
        InvalidInput: if there is no seed.
    """
    check_out(out)
    if seeds < 1:
        raise InvalidInput(f"--seeds {seeds}: at least one training of each is needed")
    subsets, left_out, removal = evidence
    report = compare(
        study,
        [name.strip() for name in names.split(",") if name.strip()],
        test=None if test is None else test_ids(study, test),
        k=k,
        retrained=subsets,
        leave_one_out=left_out,
        removal=removal,
        seeds=range(seeds),
        store=None if evidence == (None, None, None) else Store(),
        runner="job" if job else "local",
    )
    said = "\n".join(report.sentences())
    facts: dict[str, Any] = {
        "study": report.title,
        "test_ids": report.test_ids.tolist(),
        "measured": list(report.measured),
        "sentences": report.sentences(),
    }
    if out is not None:
        write_table(report.table, facts, out)
        return facts | {"file": str(out), "rows": len(report.table)}, f"{out}: {report!r}\n{said}"
    numbers = report.table.set_index("estimator").drop(columns="why_empty")
    table = numbers.T.to_string(na_rep="-", float_format="{:.3g}".format)
    why = [f"- {row['estimator']}: {row['why_empty']}" for row in report.table.to_dict("records") if row["why_empty"]]
    text = "\n".join([table, *why, "", said])
    return facts | {"table": json.loads(report.table.to_json(orient="records"))}, text
