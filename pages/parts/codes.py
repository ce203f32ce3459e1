"""The Python that makes what the pages about mistakes show."""

import influence_core as ic
from parts.frame import Choice, budget, fit_line

MATRIX = 12
"""Classes that are legible in a narrow matrix, where not all are shown."""
ALL_SHOWN = 20
"""Up to so many, all are."""


def matrix_classes(study: ic.Study) -> int:
    """How many classes a matrix shows at most."""
    return study.num_classes if study.num_classes <= ALL_SHOWN else MATRIX


def overview(choice: Choice, test_id: int, found: ic.applications.Detection | None) -> str:
    """Python that makes what Overview shows.

    Args:
        choice: the study and the estimators.
        test_id: the test image.
        found: whose flags are counted, where they are there.

    Returns:
        Lines that begin after ``study`` is there.
    """
    label, lines = choice.label, []
    flagged = "" if found is None else ", flagged=found.flagged"
    if found is not None:
        lines += flags(choice)
        of = "" if label is None else f"[study.train.labels[found.flagged] == {label}]"
        lines.append(f"suspects = found.flagged{of}")
    of = "" if label is None else f"[study.test.labels == {label}]"
    return "\n".join(
        [
            *lines,
            f"{fit_line(choice.explainers[0])}\nscores = estimator.influence(test=[{test_id}])",
            f"harmful, helpful = scores.harmful({test_id}, k=5), scores.helpful({test_id}, k=5)",
            f"ic.figures.explanation_strip(study, scores, {test_id}, k=5{flagged})",
            f"accuracy = (study.predictions() == study.test.labels){of}.double().mean()",
        ]
    )


def explain(choice: Choice, test_id: int, found: ic.applications.Detection | None) -> str:
    """Python that makes what Explain shows.

    Args:
        choice: the study and the estimators.
        test_id: the test image.
        found: whose flags frame the pictures, where they are there.

    Returns:
        Lines that begin after ``study`` is there.
    """
    k, names, lines = choice.picked.k, choice.explainers, []
    flagged = "" if found is None else ", flagged=found.flagged"
    if found is not None:
        lines += flags(choice)
    if len(names) == 1:
        lines += [
            fit_line(names[0]),
            f"scores = estimator.influence(test=[{test_id}])",
            f"harmful, helpful = scores.harmful({test_id}, k={k}), scores.helpful({test_id}, k={k})",
            f"ic.figures.explanation_strip(study, scores, {test_id}, k={k}{flagged})",
        ]
    else:
        lines += [
            f"names = {list(names)!r}",
            f"scores = [ic.estimators.get(name).fit(study).influence(test=[{test_id}]) for name in names]",
            f"agreement = ic.evaluation.agreement(scores, {test_id}, k={k})",
            "agreement.table",
            *(f"ic.figures.overlap(agreement, {side!r})" for side in ("harmful", "helpful")),
            f"ic.figures.side_by_side(study, scores, {test_id}, k={k}{flagged})",
        ]
    return "\n".join([*lines, *_mistakes(choice)])


def flags(choice: Choice) -> list[str]:
    """Python that makes ``found``, whose flags frame the pictures."""
    return [
        fit_line(choice.detectors[0], "detector"),
        f"found = ic.applications.detect(study, detector.mislabel_scores()){budget(choice)}",
    ]


def _mistakes(choice: Choice) -> list[str]:
    """Python that makes the matrix, the list of its squares and the gallery of mistakes."""
    label, cell = choice.label, choice.picked.cell
    chosen = ("" if label is None else f", label={label}") + ("" if cell is None else f", selected={cell}")
    lines = [
        f"ic.figures.confusion_matrix(study, most={matrix_classes(choice.study)}{chosen})",
        f"pairs = ic.evaluation.confusions(study{'' if label is None else f', label={label}'})",
        "mistakes = study.misclassified()",
    ]
    if cell is not None:
        square = f"(study.test.labels == {cell[0]}) & (study.predictions() == {cell[1]})"
        lines[-1] = f"mistakes = ({square}).nonzero().flatten()"
    if label is not None:
        lines.append(f"mistakes = mistakes[study.test.labels[mistakes] == {label}]")
    surest = "study.probabilities()[mistakes].max(1).values.argsort(descending=True, stable=True)"
    return [*lines, f"mistakes = mistakes[{surest}]  # the model's surest first"]
