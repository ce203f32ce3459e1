"""How many images estimators share, as a matrix of squares."""

from __future__ import annotations

import plotly.graph_objects as go

from influence_core.evaluation.agreement import Agreement, Side
from influence_core.figures.squares import Square, shade, square_matrix
from influence_core.figures.style import HARMFUL, HELPFUL, QUIET
from influence_core.figures.text import as_lines


def overlap(agreement: Agreement, side: Side = "harmful") -> go.Figure:
    """How many of their top k training images each two estimators share.

    Args:
        agreement: of two estimators or more on a test image.
        side: "harmful" or "helpful".

    Returns:
        A square per pair of estimators with the number, stronger where they share more; ``customdata`` is (row,
        column, number), places in ``agreement.names``. The diagonal, where all is shared, is grey.

    Raises:
        InvalidInput: if there is no such side.
    """
    counts, names = agreement.overlap(side).to_numpy(), agreement.names
    k, tone = int(counts.diagonal().max()), HARMFUL if side == "harmful" else HELPFUL
    chance = f"chance: {agreement.expected:.2g}"
    squares = []
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            number = int(counts[row, column])
            pair = as_lines(one) if row == column else f"{as_lines(one)} and {as_lines(other)}"
            squares.append(
                Square(
                    row,
                    column,
                    number,
                    shade(QUIET, 0) if row == column else shade(tone, number / k),
                    f"{pair}<br>{'all' if row == column else number} of {k} most {side}<br>{chance}",
                    (row, column, number),
                )
            )
    return square_matrix(squares, names, "", "", title=f"shared of the {k} most {side}; {chance}", most=18)
