"""What mended labels are worth: the study's model trained again on the labels as they were, and as they are now."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from influence_core.applications.paired import Gain
from influence_core.applications.trainings import outcomes, wanted
from influence_core.data import LabelledDataset
from influence_core.progress import counted
from influence_core.store import Store
from influence_core.study import Study


@dataclass(frozen=True, eq=False)
class Retraining:
    """Test accuracies of models trained by one recipe on two sets of labels, from the same weights.

    Attributes:
        before: with the labels as they were, one for each seed, 0 to 1.
        after: with the mended ones.
        seeds: of weights and batches.
        study: the study with the mended labels, and the model and checkpoints of the first seed.
        relabelled: training images with another label.
        excluded: training images that are left out.
        seconds: of all trainings.
        paired: the gain with its interval, paired over test images and seeds; ``None`` where it was not measured.
    """

    before: Sequence[float]
    after: Sequence[float]
    seeds: Sequence[int]
    study: Study = field(repr=False)
    relabelled: int = 0
    excluded: int = 0
    seconds: float = 0.0
    paired: Gain | None = None

    @property
    def gain(self) -> float:
        """Mean gain in accuracy, over the seeds."""
        return sum(self._gains()) / len(self.seeds)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the gain over the seeds; ``None`` of a single one."""
        gains = self._gains()
        if len(gains) < 2:
            return None
        return math.sqrt(sum((g - self.gain) ** 2 for g in gains) / (len(gains) - 1))

    def _gains(self) -> list[float]:
        return [after - before for before, after in zip(self.before, self.after, strict=True)]

    def __str__(self) -> str:
        """The gain in a sentence."""
        before, after = (sum(values) / len(values) for values in (self.before, self.after))
        spread = "" if self.spread is None else f", deviation {100 * self.spread:.1f}"
        return (
            f"test accuracy {100 * before:.1f} % with the labels as they were, {100 * after:.1f} % with "
            f"{self.relabelled:,} relabelled and {self.excluded:,} left out: {100 * self.gain:+.1f} points "
            f"({counted(len(self.seeds), 'training')} each{spread})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the gain in a sentence, and its interval."""
        said = str(self) if self.paired is None else f"{self}; in pairs of test image and seed {self.paired}"
        return f"<p>{html.escape(said)}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the study, as plain facts."""
        return {
            "before": list(self.before),
            "after": list(self.after),
            "gain": self.gain,
            "interval": None if self.paired is None else list(self.paired.interval),
            "spread": self.spread,
            "seeds": list(self.seeds),
            "relabelled": self.relabelled,
            "excluded": self.excluded,
            "seconds": self.seconds,
        }


def retrain(
    study: Study, mended: LabelledDataset, seeds: Sequence[int] = (0, 1, 2), store: Store | None = None
) -> Retraining:
    """Train the study's model again on its labels as they were, and on mended ones, and compare on the test set.

    Both begin from the same new weights and take the recipe of the study's trajectory, without augmentation, which a
    recipe does not know; without a recipe SGD with learning rate 0.1, batches of 128 and 30 epochs. The test labels
    count as they are given. ``mend`` does this, and compares with relabelling at random and with clean labels.

    Args:
        study: with labels that are classes.
        mended: its training set with other labels, or fewer images.
        seeds: two trainings each.
        store: where finished trainings are kept, so that what is broken off goes on.

    Returns:
        The accuracies, and the study with the mended labels.

    Raises:
        InvalidInput: if there is no seed.
    """
    begun = time.perf_counter()
    sets = {"before": lambda _: study.train, "after": lambda _: mended}
    purpose = "training again on both sets of labels"
    found, kept = outcomes(study, wanted(sets, seeds, keep=("after",)), store=store, purpose=purpose)
    made = kept["after"].study(study, mended, mended_name(study))
    excluded = len(study.train) - len(mended)
    changed = int((mended.labels != study.train.labels).sum()) if not excluded else _changed(study.train, mended)
    return Retraining(
        found["before"].accuracies,
        found["after"].accuracies,
        list(seeds),
        made,
        changed,
        excluded,
        time.perf_counter() - begun,
        found["after"].gain(found["before"]),
    )


def mended_name(study: Study) -> str:
    """What the study with mended labels is called."""
    return f"{study.name}, mended"


def _changed(before: LabelledDataset, after: LabelledDataset) -> int:
    """Samples that are still there with another label."""
    places = after.places_in(before)
    return 0 if places is None else int((before.labels[places] != after.labels).sum())
