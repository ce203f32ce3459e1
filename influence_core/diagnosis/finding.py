"""What a doctor says: findings, each with its mend, and what every estimator would cost."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd

from influence_core.errors import InvalidInput

Severity = Literal["error", "warning", "note"]
"""An error makes results wrong or impossible, a warning makes them doubtful, a note is good to know."""

EXIT_CODES: dict[Severity, int] = {"error": 4, "warning": 3, "note": 0}
"""Of ``influence doctor``, by the worst finding; 0 without any."""

_MARKS: dict[Severity, str] = {"error": "✖", "warning": "▲", "note": "·"}
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        code: a short name that scripts can rely on, such as "labels-shifted".
        severity: "error", "warning" or "note".
        what: was found, with numbers.
        why: it matters.
        mend: the line that mends it.

    Raises:
        InvalidInput: if there is no such severity.
    """

    code: str
    severity: Severity
    what: str
    why: str
    mend: str

    def __post_init__(self) -> None:
        """Check the severity."""
        if self.severity not in EXIT_CODES:
            raise InvalidInput(f"there is no severity {self.severity!r}; choose one of {', '.join(EXIT_CODES)}")


@dataclass(frozen=True)
class Report:
    """What ``ic.doctor`` found: shows itself as a table in a notebook, as text with ``print``, and as JSON.

    Attributes:
        study: name of the study, or the path that could not be opened.
        findings: the worst first.
        facts: what was looked at and measured: sample sizes, accuracies, entropy of the outputs, mean and deviation of
            the inputs; plain numbers and texts. ``busy`` where other work made the predicted seconds too many.
        estimators: one row for each estimator: ``name``, ``what`` is asked, whether it ``runs``, what it ``lacks``,
            and ``seconds`` (of processor time, fit and call), ``memory_mib`` (beyond the study itself) and
            ``disk_mib`` (of ``Estimator.save``) as predicted, ``None`` where nobody knows.
        machine: name of the machine that the prediction is for.
        seconds: that it took.
    """

    study: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    estimators: pd.DataFrame = field(default_factory=pd.DataFrame)
    machine: str = ""
    seconds: float = 0.0

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; ``None`` without any."""
        order: Sequence[Severity] = ("error", "warning", "note")
        return next((one for one in order if any(f.severity == one for f in self.findings)), None)

    @property
    def exit_code(self) -> int:
        """4 with an error, 3 with a warning, else 0."""
        return 0 if self.worst is None else EXIT_CODES[self.worst]

    def has(self, code: str) -> bool:
        """Whether there is a finding of this code."""
        return any(finding.code == code for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """The findings: severity, code, what, why and mend, one row each."""
        columns = ["severity", "code", "what", "why", "mend"]
        return pd.DataFrame([asdict(finding) for finding in self.findings], columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain facts."""
        rows = self.estimators.astype(object).where(self.estimators.notna(), None).to_dict("records")
        return {
            "study": self.study,
            "worst": self.worst,
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
            "estimators": rows,
            "machine": self.machine,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str)

    def __str__(self) -> str:
        """For a terminal."""
        lines = [f"{self.study}: {self._verdict()}", ""]
        for finding in self.findings:
            lines += _wrapped(f"{_MARKS[finding.severity]} {finding.severity}: {finding.what} [{finding.code}]", "  ")
            lines += _wrapped(f"why: {finding.why}", "    ")
            lines += [f"    mend: {finding.mend}", ""]
        lines += _wrapped("looked at: " + "; ".join(f"{name} {value}" for name, value in self.facts.items()), "  ")
        if len(self.estimators):
            lines += ["", *self._table().splitlines()]
            near = "many times too many, as the machine is busy" if self.facts.get("busy") else "half or twice is near"
            lines += ["", f"predicted for {self.machine}; seconds of processor time, {near}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _verdict(self) -> str:
        counts = {s: sum(f.severity == s for f in self.findings) for s in EXIT_CODES}
        said = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
        return ", ".join(said) if said else "nothing to mend"

    def _shown(self) -> pd.DataFrame:
        table = self.estimators.copy()
        for column in ("seconds", "memory_mib", "disk_mib"):
            table[column] = [_number(value) for value in table[column]]
        table["runs"] = ["yes" if one else "no" for one in table["runs"]]
        return table.rename(columns={"memory_mib": "MiB", "disk_mib": "MiB on disk", "what": "asked for"})

    def _table(self) -> str:
        return self._shown().to_string(index=False, justify="left")

    def _repr_html_(self) -> str:
        """A table of findings, and one of the estimators."""
        rows = "".join(
            f"<tr><td><b>{_MARKS[f.severity]} {f.severity}</b><br><code>{html.escape(f.code)}</code></td>"
            f"<td>{html.escape(f.what)}</td><td>{html.escape(f.why)}</td><td><code>{html.escape(f.mend)}</code></td></tr>"
            for f in self.findings
        )
        head = "<tr><th>severity</th><th>what</th><th>why it matters</th><th>what mends it</th></tr>"
        found = f"<table>{head}{rows}</table>" if rows else ""
        facts = html.escape("; ".join(f"{name} {value}" for name, value in self.facts.items()))
        costs = self._shown().to_html(index=False) if len(self.estimators) else ""
        return (
            f'<div style="font-family:sans-serif;font-size:13px"><p><b>{html.escape(self.study)}</b>: '
            f'{html.escape(self._verdict())}</p>{found}<p style="opacity:.7">{facts}</p>'
            f"<details><summary>what every estimator would cost here</summary>{costs}</details></div>"
        )


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)


def _number(value: Any) -> str:
    if value is None or pd.isna(value):
        return "?"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"
