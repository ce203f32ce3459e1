"""Apply and measure: the suggestions on show become labels, the model is trained again, and the gain is measured."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import pandas as pd
import streamlit as st

import influence_core as ic
from parts import panels, steps
from parts.errors import as_text
from parts.frame import Choice
from parts.predicted import store_of

Control = Literal["random", "checked", "same", "clean"]

CODE = """
# apply and measure: train on these labels, and on as many changed at random
# rows = table[table["given_label"] != table["suggested_label"]].assign(decision="relabel")
# report = ic.applications.mend(
#     study, decisions=rows, controls={controls}, seeds={seeds}, store=ic.store.Store()
# )
# report.table
# report.figure()"""


@dataclass(frozen=True)
class _Asked:
    """What trainings are asked for; the key says it all."""

    key: Hashable
    study: ic.Study = field(compare=False)
    rows: pd.DataFrame = field(compare=False)
    controls: list[Control] = field(compare=False)
    seeds: tuple[int, ...] = field(compare=False)


@lru_cache(maxsize=8)
def _trainings(asked: _Asked) -> ic.store.Trainings:
    return ic.applications.mending_trainings(
        asked.study, decisions=asked.rows, controls=asked.controls, seeds=asked.seeds
    )


def controls(study: ic.Study) -> list[Control]:
    """What stands beside the mended labels."""
    return ["random"] if study.train.true_labels is None else ["random", "clean"]


def code(choice: Choice) -> str:
    """The Python of it, after ``table``: as remarks, since it trains for long."""
    return CODE.format(controls=controls(choice.study), seeds=tuple(range(choice.picked.seeds)))


def measure(choice: Choice, rows: pd.DataFrame) -> None:
    """Draw the section.

    Args:
        choice: the study.
        rows: of the relabel table, those on show.
    """
    study, seeds, against = choice.study, choice.picked.seeds, controls(choice.study)
    changed = rows[rows["given_label"] != rows["suggested_label"]].assign(decision="relabel")
    if not len(changed):
        return
    named = tuple(zip(changed["index"].tolist(), changed["suggested_label"].tolist(), strict=True))
    store, asked = store_of(study), tuple(range(seeds))

    def make() -> ic.applications.Mending:
        return ic.applications.mend(study, decisions=changed, controls=against, seeds=asked, store=store)

    key = (study.fingerprint, "mend", tuple(sorted(named)), seeds, tuple(against))
    trainings = None if store is None else _trainings(_Asked(key, study, changed, against, asked))
    seconds = ic.estimators.expected_training(study, (2 + len(against)) * seeds * [len(study.train)]).seconds
    step = steps.Step(key, "Apply and measure", make, seconds, trainings=trainings, page="relabel")
    with st.container(border=True, key="measure"):
        left, right = st.columns([1, 6], vertical_alignment="bottom", gap="medium")
        with left:
            panels.seeds_box(choice.picked)
        beside = "random and true" if len(against) > 1 else "random"
        with right:
            report = steps.done(
                step,
                "measure",
                "Apply and measure",
                f"Train again with these **{len(changed):,} suggestions**, and measure the gain beside {beside} "
                f"labels: {(2 + len(against)) * seeds} trainings. {steps.takes(step)}",
            )
            if report is not None:
                st.markdown(f"**Gain on the test set** · {as_text(str(report.gain))}")
        if report is None:
            st.caption(steps.fate(step))
        else:
            _shown(report)


def _shown(report: Any) -> None:
    left, right = st.columns([3, 2], gap="medium")
    left.plotly_chart(report.figure(), key="gains", config={"displayModeBar": False})
    for sentence in report.sentences():
        right.markdown(f"- {as_text(sentence)}")
