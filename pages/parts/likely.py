"""How likely labels are wrong: what a budget will find, and whether such probabilities held."""

import streamlit as st

import influence_core as ic
from parts.errors import as_text


def how_known(found: ic.applications.Detection) -> str:
    """A sentence on where the probabilities come from, and where better ones do."""
    if found.quality.source == "planted flips":
        return "Learnt from clean images, some of which were given wrong labels on purpose."
    return (
        "A guess from the scores alone, that two normal distributions make them up: it can be far too sure. The "
        "Calibrated detector learns it from clean images."
    )


def likely(shown: ic.applications.Detection) -> None:
    """The section: what each budget is expected to find, and said against happened where the truth is known.

    Args:
        shown: the detection with its cut, of all images or of a class.
    """
    st.markdown("**How likely is a label wrong?**")
    left, right = st.columns(2, gap="medium")
    left.markdown(as_text(how_known(shown)))
    budgets = ic.applications.budgets(shown)
    left.dataframe(
        budgets.style.format({"expected": "{:.1%}", "true": "{:.1%}"}, subset=budgets.columns[1:]),
        hide_index=True,
        column_config={
            "images": st.column_config.NumberColumn("images checked", format="localized"),
            "expected": st.column_config.NumberColumn("expected wrong"),
            "true": st.column_config.NumberColumn("really wrong"),
        },
        key="budgets",
    )
    if shown.corrupted is None:
        right.info(
            "True labels are unknown, so nobody can say whether these probabilities hold.", icon=":material/info:"
        )
        return
    found, now = shown.reliability(), shown.at(shown.threshold)
    mark = None if shown.expected_precision is None else (shown.expected_precision, now["precision"])
    right.plotly_chart(ic.figures.reliability(found, mark), key="reliability", config={"displayModeBar": False})
    right.caption(
        f"Each point: images of about one probability, with 95 % intervals; the diamond: those flagged now. "
        f"Over all: {found}."
    )
