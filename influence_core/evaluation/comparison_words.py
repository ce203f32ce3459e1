"""A comparison of estimators in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_core.applications.bootstrap import Interval
from influence_core.estimators.cost import said
from influence_core.evaluation.agreement import SIDES, Side
from influence_core.evaluation.findings import Findings
from influence_core.evaluation.rank_correlation import interval_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ASK = {
    "cost": "cost=True",
    "agreement": "agreement=True",
    "lds": "retrained=50",
    "leave_one_out": "leave_one_out=20",
    "detection": "detection=True",
    "removal": "removal=0.01",
}
"""Kind of evidence -> the argument that asks for it."""

SAYS = {
    "cost": "what they cost",
    "agreement": "agreement",
    "lds": "linear datamodelling scores",
    "leave_one_out": "leave-one-out",
    "detection": "wrong labels found",
    "removal": "leaving out the top and training again",
}


Judged = tuple[float, Interval, "NDArray[np.float64]"]
"""A number, its interval, and the bootstrap behind it."""


def in_words(report: Findings) -> list[str]:
    """Everything that a comparison tells, a sentence each; last what it does not."""
    found = [
        *_refusals(report),
        *_best(report, "LDS", {n: (one.value, one.interval, one.resampled.numpy()) for n, one in report.lds.items()}),
        *_best(
            report,
            "correlation with leave-one-out",
            {n: (one.value, one.interval, one.resampled) for n, one in report.left_out.items()},
        ),
        *_detection(report),
        *(_removal(report, side) for side in SIDES if any(key[1] == side for key in report.removals)),
        *_agreement(report),
        *_quickest(report),
        *(f"Asked for, and not to be had: {SAYS[kind]}: {why}." for kind, why in report.absent.items()),
    ]
    missing = [kind for kind in ASK if kind not in report.measured and kind not in report.absent]
    if missing:
        found.append(f"Not measured: {'; '.join(f'{SAYS[kind]} ({ASK[kind]})' for kind in missing)}.")
    if not {"lds", "leave_one_out", "removal"} & {*report.measured}:
        found.append("Without a training again nothing here says whether the influence is true.")
    return found


def _refusals(report: Findings) -> list[str]:
    """Rows that gave nothing at all."""
    told = []
    for name in report.table["estimator"]:
        row = report.table.loc[report.table["estimator"] == name].drop(columns=["estimator", "why_empty"])
        if bool(row.drop(columns=["expected_seconds"], errors="ignore").isna().to_numpy().all()):
            why = str(report.table.loc[report.table["estimator"] == name, "why_empty"].iloc[0])
            told.append(f"{name} gave nothing: {why}.")
    return told


def _best(report: Findings, what: str, judged: Mapping[str, Judged]) -> list[str]:
    """The largest value, and from which others the same resamples tell it apart."""
    if not judged:
        return []
    best = max(judged, key=lambda name: judged[name][0])
    value, interval, draws = judged[best]
    head = f"{best} has the best {what}: {100 * value:.1f} % (95 %: {interval})"
    others = [name for name in judged if name != best]
    above = [name for name in others if interval_of(draws - judged[name][2]).low > 0]
    level = [name for name in others if name not in above]
    parts = [f"above {_listed(above)} beyond the interval of the difference"] if above else []
    parts += [f"not told apart from {_listed(level)}"] if level else []
    end = f"; {', '.join(parts)}" if parts else ""
    return [f"{head}{end}.{_price(report, best)}"]


def _detection(report: Findings) -> list[str]:
    """The largest average precision, and whose intervals end below it."""
    known = {name: found for name, found in report.detections.items() if found.ap is not None}
    if not known:
        return []
    best = max(known, key=lambda name: known[name].ap or 0.0)
    value = known[best].ap or 0.0
    head = f"{best} finds wrong labels best: average precision {100 * value:.1f} % (95 %: {known[best].ap_interval})"
    beyond = [
        n for n, one in known.items() if n != best and one.ap_interval is not None and one.ap_interval.high < value
    ]
    level = [n for n in known if n != best and n not in beyond]
    parts = [f"beyond the interval of {_listed(beyond)}"] if beyond else []
    parts += [f"within that of {_listed(level)}"] if level else []
    return [f"{head}{'; ' + ', '.join(parts) if parts else ''}.{_price(report, best, 'mislabel_seconds')}"]


def _removal(report: Findings, side: Side) -> str:
    """Which top moves the loss of the explained images most in the direction it should."""
    known = {name: one for (name, which), one in report.removals.items() if which == side}
    sign = 1 if side == "helpful" else -1
    best = max(known, key=lambda name: sign * known[name].value)
    one = known[best]
    seeds = len(one.change)
    sure = (
        "one seed, so no interval"
        if one.interval is None
        else (f"95 %: {one.interval.low:+.3f} to {one.interval.high:+.3f}, {seeds} seeds")
    )
    names = f"Without the {len(one.removed)} images that {best} calls most {side}"
    wrong = "" if sign * one.value > 0 else ", which is the wrong way"
    return (
        f"{names} the mean loss of the explained images changes by {one.value:+.3f} nats against as many random ones "
        f"({sure}), the most {'upwards' if sign > 0 else 'downwards'} of {len(known)}{wrong}."
    )


def _agreement(report: Findings) -> list[str]:
    """The two that share most and least."""
    if report.shared is None:
        return []
    names, shared = list(report.shared.index), report.shared.to_numpy()
    pairs = sorted(
        ((float(shared[i, j]), names[i], names[j]) for i in range(len(names)) for j in range(i)), reverse=True
    )
    size = min((len(scores.train_ids) for scores in report.influence.values()), default=0)
    chance = 100 * min(report.k, size) / size
    most, least = pairs[0], pairs[-1]
    text = f"{most[1]} and {most[2]} share {most[0]:.0f} % of their top {report.k} (mean over images and both sides)"
    fewest = f"; {least[1]} and {least[2]} {least[0]:.0f} %, the fewest" if len(pairs) > 1 else ""
    return [f"{text}{fewest}; chance would give {chance:.1f} %. Agreement is no proof."]


def _quickest(report: Findings) -> list[str]:
    """Who answers soonest."""
    seconds = {name: total for name in report.influence if (total := _seconds(report, name)) is not None}
    if len(seconds) < 2:
        return []
    first, last = min(seconds, key=lambda n: seconds[n]), max(seconds, key=lambda n: seconds[n])
    return [f"{first} is the quickest ({said(seconds[first])}), {last} takes longest ({said(seconds[last])})."]


def _price(report: Findings, name: str, answer: str = "influence_seconds") -> str:
    """What one costs, as a sentence of its own."""
    total = _seconds(report, name, answer)
    return "" if total is None else f" It took {said(total)} (fit and answer)."


def _seconds(report: Findings, name: str, answer: str = "influence_seconds") -> float | None:
    if not {"fit_seconds", answer} <= {*report.table.columns}:
        return None
    row = report.table.loc[report.table["estimator"] == name, ["fit_seconds", answer]]
    total = float(row.sum(axis=1, skipna=False).iloc[0])
    return None if total != total else total


def _listed(names: list[str]) -> str:
    """A, B and C."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
