"""One test image and the training images behind it."""

from __future__ import annotations

from collections.abc import Collection

import plotly.graph_objects as go
from torch import Tensor

from influence_core.figures.strip import PITCH, Caption, Strip, answer, labels, strongest
from influence_core.figures.style import HARMFUL, HELPFUL
from influence_core.pictures import data_url
from influence_core.scores import Scores
from influence_core.study import Study

_NAME = 14  # characters of a class


def explanation_strip(
    study: Study, scores: Scores, test_id: int | None = None, k: int = 5, flagged: Collection[int] | Tensor = ()
) -> go.Figure:
    """One test image with its most harmful and most helpful training images.

    It says what the app's pages say of a mistake: a bar for the strength of each influence, a yellow frame around a
    label that the estimator suspects, and, where a label is known to be wrong, the label struck out before the true
    one. The app's pictures are HTML, so that they load as they come into view.

    Args:
        study: whose images are shown.
        scores: influence scores that have a column for ``test_id``.
        test_id: the test image; by default the one that the scores are of.
        k: how many training images on each side.
        flagged: training ids whose label is suspect, such as ``detect(study, estimator.mislabel_scores()).flagged``.

    Returns:
        Pictures in two rows, harmful above helpful, the test image on the left.

    Raises:
        NotSupported: if the scores are of another kind than influence.
        InvalidInput: if they have no column for the test image, or several and none is named.
    """
    if test_id is None and scores.test_ids is not None and len(scores.test_ids) == 1:
        test_id = int(scores.test_ids[0])
    sides = (("harmful", scores.harmful(test_id, k), HARMFUL), ("helpful", scores.helpful(test_id, k), HELPFUL))
    suspects = {int(i) for i in flagged}
    largest = strongest(*(frame for _, frame, _ in sides))
    assert test_id is not None  # the scores have refused that
    strip = Strip()
    said = f"test image {test_id}<br>{answer(study, test_id, _NAME)}"
    strip.picture(0.0, 0.75, data_url(study.test, test_id, 128), Caption(said))
    for row, (title, frame, colour) in enumerate(sides):
        y = 1.5 - 1.5 * row
        strip.heading(1.35, y + 1.12, f"most {title}", colour)
        strip.ranked(
            study.train,
            frame,
            (1.35, y),
            colour,
            suspects,
            largest,
            lambda index, score: Caption(f"{labels(study.train, index, _NAME)} #{index}<br>{score:.3g}"),
        )
    margin = {"l": 0, "r": 0, "t": 10, "b": 10}
    return strip.figure((-0.1, 1.35 + PITCH * k), (-0.5, 2.75), height=430, margin=margin)
