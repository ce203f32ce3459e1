"""What the tables share: the study of a seed, how suspicion is judged, and training again."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import Dataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.losses import Loss, cross_entropy
from influence_core.models import model_outputs
from tests.benchmarks.mending import study_of
from tests.benchmarks.mislabels import made, memorised

Cells = dict[str, float]
"""Column -> number, of one row and one seed."""

Rows = Iterator[tuple[str, Cells]]


@dataclass(frozen=True)
class Case:
    """The digits of one seed: with SAM, or until their wrong labels are known by heart.

    ``images`` is how many of the thousand are trained on where the network is that of SAM; ``data`` a folder of other
    images, for the tables that mix them in.
    """

    seed: int
    noise: float
    by_heart: bool
    images: int = 1000
    data: Path | None = None

    @functools.cache  # noqa: B019  # a case is no more than its three settings
    def study(self, checkpoints: int | None = None) -> ic.Study:
        if self.by_heart:
            return memorised(self.noise, self.seed, checkpoints)
        study = study_of("uniform", self.noise, self.seed, self.images)
        return study.replaced(weight_decay=ic.demo.RECIPE["weight_decay"])


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper: its rows for one seed, and the setting that its claim is about."""

    title: str
    rows: Callable[[Case], Rows]
    noise: float = 0.1
    network: str | None = None  # one of its own, whatever is asked for


def corrupted(study: ic.Study) -> Tensor:
    """Which training labels are wrong, bool [N]."""
    wrong = study.train.corrupted
    assert wrong is not None
    return wrong


def judged(study: ic.Study, suspicion: Tensor) -> Cells:
    """Area under the curve and average precision of scores that are large for wrong labels, in per cent."""
    return auc_and_ap(corrupted(study), suspicion)


def auc_and_ap(positive: Tensor, scores: Tensor) -> Cells:
    """The same of scores that are large for any images, bool [N]."""
    truth, found = positive.numpy(), scores.double().cpu().numpy()
    return {"AUC": 100 * roc_auc_score(truth, found), "AP": 100 * average_precision_score(truth, found)}


_FITTED: dict[tuple[str, str], ic.estimators.Estimator] = {}
_ACCURACIES: dict[tuple[str, tuple[int, ...], int], float] = {}


def fitted(study: ic.Study, name: str) -> ic.estimators.Estimator:
    """An estimator named as in ``mislabels --only``, on a study, without what its solver has to say.

    Tables of one run share it.
    """
    key = study.fingerprint, name
    if key not in _FITTED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _FITTED[key] = made(name).fit(study)
    return _FITTED[key]


def suspicion(study: ic.Study, name: str) -> Tensor:
    """Its mislabel scores, [N]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted(study, name).mislabel_scores().values


def worth(study: ic.Study, name: str, split: str = "validation") -> Tensor:
    """Mean influence on the images of a set, [N]: positive for training images that help them."""
    asked = study.replaced(test=study.split(split))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = made(name)
        if split == "validation" and (getattr(estimator, "asks_validation", False) or estimator.name == "samgif"):
            return -fitted(study, name).mislabel_scores().values  # the same from one solve
        return fitted(asked, name).influence().values.mean(1)


def accuracy_after(study: ic.Study, data: Dataset[object], seed: int, loss: Loss = cross_entropy) -> float:
    """Test accuracy, in per cent, of the study's model trained again on other data by its recipe."""
    model = ic.training.train_fresh(study.model, data, recipe_of(study), seed=seed, loss=loss)
    right = model_outputs(model, study.test).argmax(1) == study.test.labels
    return 100 * float(right.double().mean())


def without(data: LabelledDataset, removed: Tensor) -> LabelledDataset:
    """The images whose ids are not named, in their order."""
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[removed] = False
    return data.subset(kept.nonzero().flatten())


def trained_on(study: ic.Study, data: Dataset[object], seed: int) -> nn.Module:
    """The study's model trained again on other data by its recipe."""
    return ic.training.train_fresh(study.model, data, recipe_of(study), seed=seed)


def accuracy_without(study: ic.Study, removed: Tensor, seed: int) -> float:
    """Test accuracy, in per cent, after training again without some of the images; tables of one run share it."""
    key = study.fingerprint, tuple(sorted(removed.tolist())), seed
    if key not in _ACCURACIES:
        _ACCURACIES[key] = accuracy_after(study, without(study.train, removed), seed)
    return _ACCURACIES[key]


def lowest(values: Tensor, share: float) -> Tensor:
    """Ids of that share of the images whose values are lowest."""
    return values.argsort(stable=True)[: round(share * len(values))]


def shuffled(study: ic.Study, seed: int) -> Tensor:
    """Scores of a row that knows nothing."""
    return torch.rand(len(study.train), generator=torch.Generator().manual_seed(seed))


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What comes out, and seconds."""
    begun = time.perf_counter()
    found = work()
    return found, time.perf_counter() - begun
