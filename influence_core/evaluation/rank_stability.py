"""Would the ranking be the same with another seed, or after less training?"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.estimators.together import estimator_of
from influence_core.evaluation.explained import explained_ids
from influence_core.evaluation.rank_correlation import shared_top, spearman
from influence_core.evaluation.retraining import Retrain
from influence_core.evaluation.variants import answered, asked_of, earlier_studies, retrained_study
from influence_core.progress import track
from influence_core.study import Study

SAME = 0.999
"""Rank correlation from which on scores count as those of the same model: all the rest is rounding."""


@dataclass(frozen=True, eq=False)
class RankStability:
    """How much the order of an estimator's scores depends on the model that it explains.

    All numbers are means over test images, where scores are about test images.

    Attributes:
        name: of the estimator.
        what: public method that was asked.
        over: "seeds" or "trajectory".
        k: of the top k.
        table: one row a model: model (seed 0, or step 100), correlation_with_study_percent (Spearman's, of its scores
            with those of the study's own model) and top_k_shared_with_study_percent. Of influence the top is both sides
            of it, else the largest scores.
        correlation: between the models, per cent, [n, n].
        shared: per cent of the top k that two models share, [n, n].
        test_ids: the test images, int64; ``None`` where scores are about none.
        chance_percent: of the top k, what two random orders share.
    """

    name: str
    what: str
    over: Literal["seeds", "trajectory"]
    k: int
    table: pd.DataFrame
    correlation: pd.DataFrame = field(repr=False)
    shared: pd.DataFrame = field(repr=False)
    test_ids: Tensor | None = field(repr=False)
    chance_percent: float

    @property
    def mean_correlation(self) -> float:
        """Spearman's rank correlation of two models, mean over all pairs of them, -1 to 1."""
        return _over_pairs(self.correlation)

    @property
    def mean_shared(self) -> float:
        """Share of the top k that two models have in common, mean over all pairs, 0 to 1."""
        return _over_pairs(self.shared)

    @property
    def _models(self) -> str:
        return "seeds" if self.over == "seeds" else "checkpoints"

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup."""
        found = [
            f"Two of {len(self.table)} {self._models} share {100 * self.mean_shared:.0f} % of the top {self.k} of "
            f"{self.name} (chance: {self.chance_percent:.1f} %); their orders of all images correlate by "
            f"{100 * self.mean_correlation:.0f} %."
        ]
        alone = self.table.iloc[:, 2]
        if self.over == "seeds":
            other = alone[self.table.iloc[:, 1] < 100 * SAME]  # the study's seed trains its own model once more
            who = "them" if len(other) in (0, len(alone)) else "those that are not itself once more"
            share = (other if len(other) else alone).mean()
            found.append(
                f"This study's own model shares {share:.0f} % with {who}: what is named of it and of no other is "
                "about this one training, not about the data."
            )
        else:
            found.append(
                f"Of the final top {self.k}, {alone.iloc[0]:.0f} % were there at {self.table['model'].iloc[0]} and "
                f"{alone.iloc[-1]:.0f} % at {self.table['model'].iloc[-1]}."
            )
        return found

    def __repr__(self) -> str:
        """Means over pairs."""
        return (
            f"RankStability({self.name}, {self.what} over {len(self.table)} {self._models}: top {self.k} shared "
            f"{100 * self.mean_shared:.0f} %, rank correlation {100 * self.mean_correlation:.0f} %)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<ul>{lines}</ul>{self.table.to_html(index=False, float_format='{:.1f}'.format)}"


def rank_stability(
    study: Study,
    estimator: str | type[Estimator] | Estimator,
    over: Sequence[int] | Literal["trajectory"] = (0, 1, 2),
    *,
    what: str | None = None,
    test: int | Sequence[int] | Tensor | None = None,
    k: int = 10,
    retrain: Retrain | str = "recipe",
) -> RankStability:
    """Compare an estimator's scores between models that are trained again, or between the checkpoints of one training.

    Args:
        study: that is explained; neither it nor the estimator changes.
        estimator: name, class or object; a copy is fitted for each model.
        over: seeds, for each of which a model is trained on all training images; or "trajectory", for the model at each
            checkpoint, with the checkpoints up to it as its trajectory.
        what: "influence", "mislabel_scores" or "self_influence"; by default the first that the estimator gives.
        test: ids of test images for influence; by default the misclassified ones of the study, at most 20, as
            ``compare`` takes them.
        k: of the top k.
        retrain: trains one model for a seed: a function, its name ``module:function``, or "recipe" for that of the
            study. Estimators that need checkpoints need "recipe".

    Returns:
        Rank correlations and shares of the top k. Exactly 1 of identical models, unless all scores for a test image are
        equal, which counts as 0.

    Raises:
        InvalidInput: if there are fewer than two seeds, one comes twice, or an id or a number makes no sense.

    Example:
        >>> import influence_core as ic
        >>> found = ic.evaluation.rank_stability(ic.demo.digits(), "lastlayer", "trajectory", test=[475])
        >>> len(found.table), round(float(found.table.iloc[-1, 1]), 6)
        (6, 100.0)
    """
    chosen = estimator_of(estimator)
    asked = asked_of(chosen, what)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(f"k is {k!r}; it is how many images are named on each side, so 1 or more")
    test_ids = explained_ids(study, test)
    if isinstance(over, str):
        if over != "trajectory":
            raise InvalidInput(f"over is {over!r}; give seeds, such as (0, 1, 2), or 'trajectory'")
        models = [(f"step {step}", one) for step, one in earlier_studies(study)]
    else:
        if len(set(over)) < max(2, len(over)):
            raise InvalidInput(f"over is {over!r}; give two seeds or more, each once, or 'trajectory'")
        models = [(f"seed {seed}", retrained_study(study, seed, retrain)) for seed in over]
    own = answered(study, chosen, asked, test_ids)
    scores = [answered(one, chosen, asked, test_ids) for _, one in track(models, "scores of each model")]
    names, both = [name for name, _ in models], asked == "influence"
    table = pd.DataFrame({"model": names})
    table["correlation_with_study_percent"] = [100 * float(spearman(one, own).mean()) for one in scores]
    table[f"top_{k}_shared_with_study_percent"] = [100 * top_in_common(one, own, k, both) for one in scores]
    correlation, shared = np.full((2, len(names), len(names)), 100.0)
    for i, j in combinations(range(len(names)), 2):
        correlation[i, j] = correlation[j, i] = 100 * float(spearman(scores[i], scores[j]).mean())
        shared[i, j] = shared[j, i] = 100 * top_in_common(scores[i], scores[j], k, both)
    size = len(study.train)
    return RankStability(
        chosen.name,
        asked,
        "trajectory" if isinstance(over, str) else "seeds",
        k,
        table,
        pd.DataFrame(correlation, index=names, columns=names),
        pd.DataFrame(shared, index=names, columns=names),
        test_ids if both else None,
        100 * min(k, size) / size,
    )


def top_in_common(one: Tensor, two: Tensor, k: int, both: bool) -> float:
    """Share of the top k of two tables of scores, mean over columns, and over both sides where there are two.

    Args:
        one: [N, M].
        two: [N, M].
        k: images on each side.
        both: whether the lowest scores are a side as well.

    Returns:
        0 to 1.
    """
    sides = [shared_top(one, two, k)] + ([shared_top(one, two, k, lowest=True)] if both else [])
    return float(sum(float(side.mean()) for side in sides)) / len(sides)


def _over_pairs(matrix: pd.DataFrame) -> float:
    """Mean of what is above the diagonal, which is in per cent, as a share."""
    values = matrix.to_numpy()
    return float(values[np.triu_indices(len(values), 1)].mean()) / 100
