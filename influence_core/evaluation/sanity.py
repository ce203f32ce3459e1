"""Do scores depend on what they claim to explain? They have to change with the weights, and with the labels."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator, Random
from influence_core.estimators.together import estimator_of
from influence_core.evaluation.candidates import REFUSALS, said
from influence_core.evaluation.explained import explained_ids
from influence_core.evaluation.naming import distinct
from influence_core.evaluation.rank_correlation import spearman
from influence_core.evaluation.rank_stability import SAME, top_in_common
from influence_core.evaluation.retraining import Retrain
from influence_core.evaluation.variants import answered, asked_of, randomised_study, retrained_study
from influence_core.parameters import plain
from influence_core.progress import track
from influence_core.study import Study

MUCH = 0.5
"""Rank correlation within a label from which on scores keep much of their order."""

CHECKS = {
    "random weights": "a model that was never trained",
    "learned random labels": "a model that was trained on random labels",
    "given random labels": "that model, and the random labels as the training set's own",
}
"""What is randomised."""


@dataclass(frozen=True, eq=False)
class SanityChecks:
    """Rank correlation of scores with those of randomised studies.

    Attributes:
        table: one row per estimator and check: estimator, what (the public method that was asked), check,
            correlation_percent (Spearman's with the scores of the study itself, mean over test images),
            within_class_percent (the same among the training images of one given label, mean over labels, weighted by
            their images), top_k_shared_percent, random_percent (the first of these of the ``Random`` estimator, which
            ignores all that is randomised) and why_empty. The checks are "random weights" (a model that was never
            trained, nor its checkpoints), "learned random labels" (a model trained on random labels explains the
            training set as it is) and "given random labels" (that model, with the random labels as those of the
            training set).
        k: of the top k.
        chance_percent: the correlation that unrelated orders of so many images stay below with 95 %.
    """

    table: pd.DataFrame
    k: int
    chance_percent: float = field(default=0.0)

    @property
    def independent(self) -> list[str]:
        """Names of the estimators whose scores do not depend on the study's model."""
        return self._same("random weights")

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup."""
        found = []
        nothing = [name for name in self.independent if name in self._same("given random labels")]
        own = [name for name in self.independent if name not in nothing]
        if nothing:
            found.append(f"{', '.join(nothing)}: the scores depend neither on the model nor on the labels.")
        if own:
            found.append(f"{', '.join(own)}: the scores do not depend on the study's model, but on the labels.")
        known = self.table[self.table["correlation_percent"].notna() & ~self.table["estimator"].isin(self.independent)]
        for check, meaning in CHECKS.items():
            rows = known[known["check"] == check].to_dict("records")
            if not rows:
                continue
            told = ", ".join(
                f"{row['estimator']} {row['correlation_percent']:.0f} % ({row['within_class_percent']:.0f} % within)"
                for row in rows
            )
            found.append(f"Rank correlation with {meaning}, of all images and within those of one label: {told}.")
            much = [row["estimator"] for row in rows if row["within_class_percent"] > 100 * MUCH]
            if much:
                found.append(
                    f"Within a label {', '.join(much)} kept much of the order, whatever the model had learned."
                )
        if len(known):
            found.append(
                f"Unrelated orders correlate by less than {self.chance_percent:.0f} % (95 %). Gradients of two images "
                "have a sign that their labels largely decide, so that orders across labels are alike with any model."
            )
        failed = self.table[self.table["correlation_percent"].isna()].drop_duplicates(["estimator", "why_empty"])
        return found + [f"{row['estimator']}: {row['why_empty']}." for row in failed.to_dict("records")]

    def _same(self, check: str) -> list[str]:
        rows = self.table[(self.table["check"] == check) & (self.table["correlation_percent"] >= 100 * SAME)]
        return [str(name) for name in rows["estimator"]]

    def __repr__(self) -> str:
        """Which estimators, and which of them ignore the model."""
        names = list(dict.fromkeys(self.table["estimator"]))
        ignoring = f"; independent of the model: {', '.join(self.independent)}" if self.independent else ""
        return f"SanityChecks({', '.join(names)}{ignoring})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<ul>{lines}</ul>{self.table.to_html(index=False, float_format='{:.1f}'.format, na_rep='–')}"


def sanity_checks(
    study: Study,
    estimators: str | type[Estimator] | Estimator | Sequence[str | type[Estimator] | Estimator],
    *,
    what: str | None = None,
    test: int | Sequence[int] | Tensor | None = None,
    k: int = 10,
    retrain: Retrain | str = "recipe",
    seed: int = 0,
) -> SanityChecks:
    """Randomise the model, and the labels that it learns, and see whether the scores notice.

    After Adebayo et al. 2018, "Sanity Checks for Saliency Maps", sections 3.1 (model parameter randomisation, here of
    all layers at once) and 3.2 (data randomisation): an explanation that stays as it is with a model that knows nothing
    explains something else. A low correlation is no merit; a high one is a fault.

    Args:
        study: that is explained; neither it nor the estimators change.
        estimators: one or several: names, classes or objects. Copies are fitted four times each.
        what: "influence", "mislabel_scores" or "self_influence"; by default the first that an estimator gives.
        test: ids of test images for influence; by default the misclassified ones of the study, at most 20, as
            ``compare`` takes them.
        k: of the top k.
        retrain: trains the model of random labels: a function, its name ``module:function``, or "recipe" for that of
            the study. Estimators that need checkpoints need "recipe".
        seed: of the random weights, of the random order that the labels are put into, and of the training on them.

    Returns:
        Correlations, and who does not depend on the model. An estimator that refuses has a row with its reason.

    Raises:
        InvalidInput: if there is no estimator, or an id or a number makes no sense.
        NotSupported: if labels are no classes, or the model cannot be initialised again.

    Example:
        >>> import influence_core as ic
        >>> ic.evaluation.sanity_checks(ic.testing.problems.network_study(), "random").independent
        ['random']
    """
    study.need_classes("a sanity check with random labels")
    made = [
        estimator_of(one) for one in ([estimators] if isinstance(estimators, (str, type, Estimator)) else estimators)
    ]
    if not made:
        raise InvalidInput("there is no estimator to check; give some, such as ['ekfac', 'trak']")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(f"k is {k!r}; it is how many images are named on each side, so 1 or more")
    test_ids = explained_ids(study, test)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(study.train), generator=generator)
    shuffled = study.train.with_labels(study.train.labels[order])
    learned = retrained_study(study, seed, retrain, shuffled)
    studies = {
        "random weights": randomised_study(study, seed),
        "learned random labels": learned.replaced(train=study.train),
        "given random labels": learned,
    }
    control = Random(seed=seed)
    told = [
        float(spearman(*(answered(s, control, "mislabel_scores", test_ids) for s in (study, one))).mean())
        for one in studies.values()
    ]
    rows = []
    names = distinct([(one.name, plain(one.get_params())) for one in made])
    for name, one in track(list(zip(names, made, strict=True)), "sanity checks"):
        rows += _checked(study, studies, (name, one), what, test_ids, k)
    table = pd.DataFrame(rows)
    table.insert(6, "random_percent", [100 * told[list(CHECKS).index(check)] for check in table["check"]])
    return SanityChecks(table, k, 196.0 / max(1, len(study.train) - 1) ** 0.5)


def _checked(
    study: Study,
    studies: dict[str, Study],
    named: tuple[str, Estimator],
    what: str | None,
    test_ids: Tensor,
    k: int,
) -> list[dict[str, object]]:
    """The rows of one estimator."""
    name, estimator = named
    asked, rows, own, first = what, [], None, ""
    try:
        asked = asked_of(estimator, what)
        own = answered(study, estimator, asked, test_ids)
    except REFUSALS as error:
        first = said(error)
    for check, other in studies.items():
        correlation = within = top = float("nan")
        why = first
        if own is not None and asked is not None:
            try:
                scores = answered(other, estimator, asked, test_ids)
                correlation = 100 * float(spearman(own, scores).mean())
                within = 100 * _within(own, scores, study.train.labels)
                top = 100 * top_in_common(own, scores, k, asked == "influence")
            except REFUSALS as error:
                why = said(error)
        cells = {
            "correlation_percent": correlation,
            "within_class_percent": within,
            f"top_{k}_shared_percent": top,
            "why_empty": why,
        }
        rows.append({"estimator": name, "what": asked or "", "check": check, **cells})
    return rows


def _within(one: Tensor, two: Tensor, labels: Tensor) -> float:
    """Spearman's rank correlation among the images of one label, mean over columns and labels; [N, M] each."""
    total, images = 0.0, 0
    for label in labels.unique():
        rows = labels == label
        count = int(rows.sum())
        if count > 2:
            total += count * float(spearman(one[rows], two[rows]).mean())
            images += count
    return total / images if images else float("nan")
