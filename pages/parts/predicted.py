"""What a change of the training set is predicted to do, and the receipt that training writes for it."""

from functools import lru_cache
from typing import Any, Literal

import streamlit as st
import torch

import influence_core as ic
from parts import frame, results, stored, work
from parts.change import Change
from parts.steps import Step


def prediction(choice: frame.Choice, change: Change) -> tuple[Step, ic.estimators.Expected | None]:
    """The prediction as a step, and what it will cost.

    Args:
        choice: the study, and who predicts.
        change: of the training set.

    Returns:
        The step, whose result is a ``WhatIf``; ``None`` for the cost where it is there or under way.
    """
    study, name, labels = choice.study, choice.explainers[0], change.labels
    named = None if labels is None else tuple(sorted(labels.items()))
    key = (study.fingerprint, name, "what if", change.ids, named)
    title = ic.estimators.get(name).title
    expected = None if work.peek(key) is not None else _expected(study, name, change)

    def make() -> ic.applications.WhatIf:
        fitted = _fitted(study, name)
        asked: Literal["remove", "relabel"] = "remove" if labels is None else "relabel"
        scores = None
        if labels is None or "parameter_change" not in fitted.gives():  # else the edited model says it
            words = f"{title}: influence on all test images"
            scores = work.once((study.fingerprint, name, "influence on all"), fitted.influence, words)
        return ic.applications.what_if(study, fitted, list(change.ids), asked, labels=labels, scores=scores)

    return Step(key, f"{title}: prediction", make, None if expected is None else expected.seconds), expected


def at_once(choice: frame.Choice, expected: ic.estimators.Expected | None) -> bool:
    """Whether a prediction begins without a click, as other answers of this cost do."""
    if expected is None:
        return True
    limit = results.AT_ONCE if choice.explainers[0] in choice.picked.estimators else results.BY_DEFAULT
    return expected.seconds is not None and expected.seconds <= limit


def _expected(study: ic.Study, name: str, change: Change) -> ic.estimators.Expected:
    request = stored.request(study, name, "influence")[0]
    fitted = request is not None and work.has(stored.fit_key(request))
    action: Literal["remove", "relabel"] = "remove" if change.labels is None else "relabel"
    return ic.applications.expected_what_if(study, ic.estimators.get(name), action, len(change.ids), fitted)


def _fitted(study: ic.Study, name: str) -> Any:
    """The fitted estimator, shared with what else is asked of it."""
    request, fresh = stored.request(study, name, "influence")[0], ic.estimators.get(name)
    if request is None:
        return fresh.fit(study)
    return work.once(stored.fit_key(request), lambda: stored.store().fit(request), f"{fresh.title}: fit")


def store_of(study: ic.Study) -> ic.store.Store | None:
    """Where trainings and receipts of a study are kept; ``None`` where nobody could say later whose they are."""
    return None if study.unidentified else stored.store()


def verification(found: ic.applications.WhatIf, seeds: int) -> Step:
    """Training with and without the change, whose result is the receipt."""
    receipt, store = found.receipt, store_of(found.study)
    asked = tuple(range(seeds))
    title = ic.estimators.get(receipt.estimator).title
    trainings = None if store is None else _trainings(found, asked)
    size = len(found.study.train)
    gone = len(receipt.ids) if receipt.action == "remove" else 0
    return Step(
        (found.study.fingerprint, receipt.estimator, "verify", receipt.key, asked),
        f"{title}: verification",
        lambda: found.verify(seeds=asked, store=store),
        ic.estimators.expected_training(found.study, seeds * [size, size - gone]).seconds,
        trainings=trainings,
        page="what-if",
    )


@lru_cache(maxsize=8)
def _trainings(found: ic.applications.WhatIf, seeds: tuple[int, ...]) -> ic.store.Trainings:
    return found.trainings(seeds)


def verified(found: ic.applications.WhatIf, seeds: int) -> ic.applications.Receipt | None:
    """The receipt that is kept for a prediction, of so many seeds; ``None`` where there is none."""
    store = store_of(found.study)
    if store is None:
        return None
    mine, asked = found.receipt, tuple(range(seeds))
    kept = ic.applications.receipts(store, mine.study, mine.estimator, mine.key)
    return next((r for r in kept if r.verified and r.seeds == asked), None)


def table(found: ic.applications.WhatIf, receipt: ic.applications.Receipt | None) -> Any:
    """``found.table`` with labels and predictions as words, and what training showed where that is known."""
    study, rows = found.study, found.table
    ids = rows["test_id"].tolist()
    names = study.class_names
    shown = rows.assign(
        label=[names[int(k)] for k in study.test.labels[ids]],
        prediction=[names[int(k)] for k in study.predictions()[ids]],
    )
    if receipt is not None and receipt.actual is not None:
        shown["actual_change"] = torch.tensor(receipt.actual, dtype=torch.float64)[ids].tolist()
    return shown


RIGHT = (
    "Right is a prediction that correlates with what training shows by 0.5 or more, over the test images and without "
    "the noise of the seeds, and whose size is right within a factor of two."
)
"""What ``ic.applications.calibration`` means by it."""


def verdict(compared: ic.applications.Calibration) -> str:
    """Whether one prediction was right, as Markdown."""
    row = compared.table.iloc[0]
    said = f"The prediction was {'' if row['right'] else 'not '}right"
    if row["right"] is None:
        said = "These trainings differ too much among themselves to say whether the prediction was right"
    return (
        f"**{said}** · correlation {row['correlation']:.2f}, the "
        f"same sign for {row['same_sign']:.0%} of the test images"
    )


def outcome(receipt: ic.applications.Receipt) -> list[str]:
    """What training again showed, in sentences."""
    predicted = torch.tensor(receipt.predicted, dtype=torch.float64)
    actual = torch.tensor(receipt.actual, dtype=torch.float64)
    found = [f"The mean test loss changed by {float(actual.mean()):+.3g} nats"]
    if receipt.scale == "nats":
        found[0] += f"; predicted were {float(predicted.mean()):+.3g}"
    found[0] += "."
    if receipt.accuracy is not None:
        before, after = receipt.accuracy
        found.append(
            f"Test accuracy goes from {before:.1%} to {after:.1%}, mean of "
            f"{ic.progress.counted(len(receipt.seeds), 'training')} each."
        )
    if receipt.noise is None:
        found.append("One training each: nobody knows how much of it is luck.")
    else:
        noise = torch.tensor(receipt.noise, dtype=torch.float64)
        sure = int((actual.abs() > 2 * noise).sum())
        found.append(f"The change is beyond twice its standard error on {sure:,} of {len(actual):,} test images.")
    return found


def cautions(found: ic.applications.WhatIf) -> list[str]:
    """What speaks against acting on a prediction before it is verified, sentences."""
    caution = ic.applications.in_range(found, earlier(found.receipt.estimator))
    return [*found.warnings(), *([] if caution is None else [caution])]


def earlier(name: str) -> list[ic.applications.Receipt]:
    """The receipts that are kept of an estimator, about any study."""
    return ic.applications.receipts(stored.store(), estimator=name)


def without_edit(found: ic.applications.WhatIf) -> str:
    """Why there is no edited model."""
    title = ic.estimators.get(found.receipt.estimator).title
    return f"The training loss does not fall along {title}'s edit." if found.step == 0 else f"{title} edits no weights."


def trust(found: ic.applications.WhatIf) -> str:
    """How the prediction was made, and what that means for it."""
    said = (
        "The scores of the images are added up, as if each changed little and none of the others: the more images, the "
        "less that holds."
        if found.receipt.how == "influence"
        else "The weights are moved by one step, as far as the loss of the changed training set falls, and the losses "
        "of that edited model are looked at."
    )
    if found.reach is not None:
        said += f" {found.reach}"
    if found.receipt.scale != "nats":
        said += " The numbers have no unit: their order counts, not their size."
    if found.mends is not None and found.edited is None:
        said += " Mended and broken are only those answers whose predicted loss leaves no doubt."
    return said


def columns() -> dict[str, Any]:
    """How the table is shown."""
    config = st.column_config
    return {
        "picture": config.ImageColumn("picture", width="small"),
        "test_id": config.NumberColumn("test image"),
        "loss": config.NumberColumn("loss", format="%.4g"),
        "predicted_change": config.NumberColumn("predicted change", format="%+.3g"),
        "actual_change": config.NumberColumn("trained again", format="%+.3g"),
        "right": config.CheckboxColumn("right now"),
        "mends": config.CheckboxColumn("would be mended"),
        "breaks": config.CheckboxColumn("would break"),
    }
