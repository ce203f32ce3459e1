"""What a comparison of estimators found: a table, sentences, and a figure."""

from __future__ import annotations

import html
import importlib
import math
from typing import TYPE_CHECKING, Any

from influence_core.errors import InvalidInput
from influence_core.evaluation.comparison_words import in_words
from influence_core.evaluation.findings import Findings

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Comparison(Findings):
    """The report of ``compare``: ``Findings`` says what it holds."""

    def reason(self, estimator: str, column: str) -> str | None:
        """Why a cell is empty.

        Args:
            estimator: name of the row.
            column: of the table.

        Returns:
            A sentence; ``None`` where there is a number.

        Raises:
            InvalidInput: if there is no such row or column.
        """
        if estimator not in self.estimators:
            raise InvalidInput(f"there is no row {estimator!r}; there are {', '.join(self.estimators)}")
        if column not in self.table.columns:
            raise InvalidInput(f"there is no column {column!r}; there are {', '.join(self.table.columns)}")
        return self.reasons.get((estimator, column))

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup; last, what was not measured."""
        return in_words(self)

    def figure(self, measure: str | None = None) -> go.Figure:
        """One measure against seconds: ``ic.figures.comparison``.

        Args:
            measure: such as "lds"; by default the first of those that there are.

        Returns:
            A marker with its interval for each estimator.
        """
        figures: Any = importlib.import_module("influence_core.figures")  # a floor above: once somebody looks
        return figures.comparison(self, measure)

    def __repr__(self) -> str:
        """How many estimators on how many images, and what was measured."""
        kinds = ", ".join(kind.replace("_", " ") for kind in self.measured)
        return (
            f"Comparison({len(self.table)} estimators on {len(self.test_ids)} test images of {self.title!r}: {kinds})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the meaning, and the table; the pointer on an empty cell says why it is."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        shown = [column for column in self.table.columns if column != "why_empty"]
        head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in shown)
        rows = []
        for record in self.table.to_dict("records"):
            name = str(record["estimator"])
            cells = [self._cell(name, column, record[column]) for column in shown[1:]]
            rows.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
        title = f"<p><b>{html.escape(self.title)}</b>, {len(self.test_ids)} test images, k = {self.k}</p>"
        return f"{title}<ul>{lines}</ul><table><tr>{head}</tr>{''.join(rows)}</table>"

    def _cell(self, name: str, column: str, value: float) -> str:
        if math.isnan(value):
            return f'<td title="{html.escape(self.reasons.get((name, column), ""))}">–</td>'
        return f"<td>{value:.3g}</td>"
