"""A table under way: a row an estimator, and in each cell a number or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from influence_core.applications.bootstrap import Interval


class Sheet:
    """Numbers and reasons, cell by cell.

    Args:
        names: of the rows.

    Attributes:
        names: of the rows.
        reasons: (row, column) -> why the cell is empty.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reasons: dict[tuple[str, str], str] = {}
        self._columns: dict[str, dict[str, float]] = {}

    def add(self, columns: Iterable[str]) -> None:
        """Columns to come, in order; cells are empty until they are put."""
        for column in columns:
            self._columns.setdefault(column, {})

    def put(self, name: str, cells: Mapping[str, float | str | None]) -> None:
        """Fill cells of a row.

        Args:
            name: of the row.
            cells: column -> number, or the reason why there is none.
        """
        for column, value in cells.items():
            self.add([column])
            if isinstance(value, str):
                self.reasons[name, column] = value
            elif value is not None:
                self._columns[column][name] = float(value)

    def table(self) -> pd.DataFrame:
        """The rows: estimator, the columns as they were added, and why cells are empty."""
        frame = pd.DataFrame({"estimator": list(self.names)})
        for column, cells in self._columns.items():
            frame[column] = [cells.get(name, float("nan")) for name in self.names]
        why = [[reason for (row, _), reason in self.reasons.items() if row == name] for name in self.names]
        frame["why_empty"] = ["; ".join(dict.fromkeys(reasons)) for reasons in why]
        return frame


def columns_of(quantity: str, unit: str) -> tuple[str, str, str]:
    """The columns of a number with its 95 % interval.

    Args:
        quantity: such as "lds".
        unit: such as "percent".

    Returns:
        Number, low end, high end.
    """
    return f"{quantity}_{unit}", f"{quantity}_low_{unit}", f"{quantity}_high_{unit}"


def percent(quantity: str, value: float, interval: Interval) -> dict[str, float | str | None]:
    """Cells of a share with its interval, in per cent."""
    numbers = (100 * value, 100 * interval.low, 100 * interval.high)
    return dict(zip(columns_of(quantity, "percent"), numbers, strict=True))


def empty(columns: Iterable[str], reason: str) -> dict[str, float | str | None]:
    """Cells without numbers, for a reason."""
    return dict.fromkeys(columns, reason)
