"""What figures of pictures are made of: a picture, a bar for its influence, a caption, a heading."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from influence_core.data import LabelledDataset
from influence_core.figures.style import FLAGGED, style
from influence_core.figures.text import as_text
from influence_core.pictures import data_url
from influence_core.study import Study

PITCH = 1.1
"""From one picture to the next; a picture is 1 wide and high."""


class Caption(NamedTuple):
    """Lines below a picture, and what shows under the pointer where they are cut; both HTML for Plotly."""

    text: str
    size: int = 12
    whole: str = ""


@dataclass
class Strip:
    """The parts of a figure, gathered first: Plotly checks all of them again each time that one is added.

    Attributes:
        images: of the layout.
        shapes: of the layout.
        annotations: of the layout.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def picture(self, x: float, y: float, source: str, said: Caption, room: float = 0.0, framed: bool = False) -> None:
        """A picture with its lower left corner at (x, y), and its caption ``room`` below it."""
        place = {"x": x, "y": y + 1, "xref": "x", "yref": "y", "sizex": 1, "sizey": 1, "sizing": "contain"}
        self.images.append({"source": source, **place})
        if framed:
            self._rectangle(x, y, x + 1, y + 1, line={"color": FLAGGED, "width": 3})
        self._write(x + 0.5, y - room, said.text, yanchor="top", font={"size": said.size}, hovertext=said.whole or None)

    def heading(self, x: float, y: float, text: str, colour: str = "") -> None:
        """A heading that begins at (x, y): in the colour of the page's text, after a square in ``colour``."""
        mark = f'<span style="color:{colour}">■</span> ' if colour else ""
        self._write(x, y, f"{mark}<b>{text}</b>", xanchor="left")

    def ranked(
        self,
        data: LabelledDataset,
        frame: pd.DataFrame,
        corner: tuple[float, float],
        colour: str,
        suspects: Collection[int],
        largest: float,
        say: Callable[[int, float], Caption],
    ) -> None:
        """Training images from left to right: picture, yellow frame where suspect, a bar for the influence, a caption.

        Args:
            data: the training set.
            frame: train_id and score, as ``Scores.harmful`` gives them.
            corner: x and y of the first picture's lower left corner.
            colour: of the bars.
            suspects: ids whose label is suspect.
            largest: influence whose bar is as long as the picture, above 0.
            say: the caption of a training id and its score.
        """
        x, y = corner
        for index, score in zip(frame["train_id"].tolist(), frame["score"].tolist(), strict=True):
            self.picture(x, y, data_url(data, index, 128), say(index, score), room=0.06, framed=index in suspects)
            self._rectangle(x, y - 0.06, x + abs(score) / largest, y - 0.02, fillcolor=colour, line={"width": 0})
            x += PITCH

    def figure(self, across: tuple[float, float], up: tuple[float, float], **layout: object) -> go.Figure:
        """All of it.

        Args:
            across: range of x.
            up: range of y, with the same unit.
            **layout: see ``style``.

        Returns:
            The figure, without a trace.
        """
        figure = go.Figure()
        style(figure, **layout)
        axes = {"xaxis": {"visible": False, "range": across}, "yaxis": {"visible": False, "range": up}}
        axes["yaxis"]["scaleanchor"] = "x"
        figure.update_layout(images=self.images, shapes=self.shapes, annotations=self.annotations, **axes)
        return figure

    def _rectangle(self, x0: float, y0: float, x1: float, y1: float, **look: Any) -> None:
        self.shapes.append({"type": "rect", "x0": x0, "y0": y0, "x1": x1, "y1": y1, **look})

    def _write(self, x: float, y: float, text: str, **look: Any) -> None:
        self.annotations.append({"x": x, "y": y, "text": text, "showarrow": False, **look})


def strongest(*frames: pd.DataFrame) -> float:
    """The largest absolute score of these, or 1 where all are 0."""
    return max((float(frame["score"].abs().max()) for frame in frames), default=0.0) or 1.0


def answer(study: Study, test_id: int, most: int | None = None, arrow: str = " → ") -> str:
    """Label and prediction of a test image, with the model's confidence; names cut to ``most`` characters."""
    true, predicted = int(study.test.labels[test_id]), int(study.predictions()[test_id])
    confidence = float(study.probabilities()[test_id, predicted])
    one, other = (as_text(study.test.class_name(label), most) for label in (true, predicted))
    return f"{one}{arrow}{other} ({confidence:.0%})"


def labels(data: LabelledDataset, index: int, most: int | None = None) -> str:
    """The given label, struck out before the true one where that is known to differ; names cut to ``most``."""
    given = data.label_text(index)
    true = given if data.true_labels is None else data.label_text(index, true=True)
    name = f"<b>{as_text(true, most)}</b>"
    return name if true == given else f"<s>{as_text(given, most)}</s> {name}"
