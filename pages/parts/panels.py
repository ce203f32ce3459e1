"""Panels that more than one page shows."""

from collections.abc import Callable

import streamlit as st
import torch
from torch import Tensor

import influence_core as ic
from parts import results
from parts.errors import as_text
from parts.gallery import Tile, gallery, train_tile
from parts.studies import picture_url

SECONDS_PER_IMAGE = 4
"""An assumption, not a measurement: what looking at one suspect takes a person. The minutes shown follow from it."""


def by_confidence(study: ic.Study, ids: Tensor) -> Tensor:
    """Test ids, those first whose prediction the model is surest of."""
    confidence = study.probabilities()[ids].max(1).values
    return ids[torch.sort(confidence, descending=True, stable=True).indices]


def mistakes(study: ic.Study, label: int | None) -> Tensor:
    """Ids of the misclassified test images of a class (or of all), the model's surest first."""
    wrong = study.misclassified()
    return by_confidence(study, wrong if label is None else wrong[study.test.labels[wrong] == label])


def flags(study: ic.Study, estimator: str) -> set[int] | None:
    """Training images whose label the estimator suspects.

    Args:
        study: whose training labels are judged.
        estimator: lower-case name, as in ``ic.estimators.get``.

    Returns:
        Their ids; ``None`` if it has no opinion, or none on this study: several explain a test image of any study, but
        need a validation set to say which labels are suspect.
    """
    if "mislabel_scores" not in type(ic.estimators.get(estimator)).gives():
        return None
    try:
        return set(results.detection(study, estimator).flagged.tolist())
    except ic.InfluenceError:
        return None


def explanation(study: ic.Study, scores: ic.Scores, test_id: int, k: int, flags: set[int] | None, key: str) -> None:
    """One test image on the left, its most harmful and most helpful training images on the right."""
    left, right = st.columns([1, 4], gap="large")
    with left:
        test_card(study, test_id)
    with right:
        harmful, helpful = scores.harmful(test_id, k), scores.helpful(test_id, k)
        largest = max(abs(harmful["score"]).max(), abs(helpful["score"]).max(), 1e-30)
        for title, colour, frame in (
            ("pushed it there: most harmful", "orange", harmful),
            ("pulled the right way: most helpful", "green", helpful),
        ):
            st.markdown(f":{colour}[**These training images {title}**]")
            tiles = [
                train_tile(
                    study,
                    int(row["train_id"]),
                    flags is not None and int(row["train_id"]) in flags,
                    size=192,
                    note=f"#{row['train_id']} · {signed(row['score'])}",
                    bar=float(row["score"] / largest),
                )
                for row in frame.to_dict("records")
            ]
            gallery(tiles, key=f"{key}_{title[:6]}", size=112)
        legend = ["bar: strength of the influence"]
        if flags is not None:
            legend.append("yellow frame: label suspected wrong by the estimator")
        if study.train.true_labels is not None:
            legend.append("~~struck~~ label: known to be wrong, the true one follows")
        st.caption(" · ".join(legend))
        caveats(scores)


def caveats(scores: ic.Scores) -> None:
    """How far the scores can be trusted, in the library's words."""
    st.caption(f"**How far to trust it** · {as_text(' '.join(scores.caveats()))}")


def signed(score: float) -> str:
    """A score in few characters, with its sign and without an exponent where there is room."""
    return f"{score:+,.0f}" if 1000 <= abs(score) < 1e7 else f"{score:+.3g}"


def test_tile(study: ic.Study, test_id: int, size: int) -> Tile:
    """A test image with its label and prediction."""
    data = study.test
    true, predicted = int(data.labels[test_id]), int(study.predictions()[test_id])
    names = data.class_name(true), data.class_name(predicted)
    confidence = float(study.probabilities()[test_id, predicted])
    return {
        "id": test_id,
        "src": picture_url(data, test_id, size),
        "label": f"{names[0]} → {names[1]}",
        "note": f"{confidence:.0%} sure",
        "tip": f"test image {test_id}: label {names[0]}, predicted {names[1]}",
    }


def test_card(study: ic.Study, test_id: int) -> None:
    """A test image with its label, the prediction and the model's confidence."""
    st.markdown(f"**Test image {test_id}**")
    tile = test_tile(study, test_id, 384)
    right = int(study.test.labels[test_id]) == int(study.predictions()[test_id])
    tile["note"] = f"{'right' if right else 'wrong'}, {tile['note']}"
    gallery([tile], key="test_card", size=150)
    surest = torch.topk(study.probabilities()[test_id], min(3, study.num_classes))
    pairs = zip(surest.indices.tolist(), surest.values.tolist(), strict=True)
    st.caption(" · ".join(f"**{study.class_names[k]}** {p:.0%}" for k, p in pairs))


def test_gallery(study: ic.Study, ids: list[int], current: int, on_pick: Callable[[int], None]) -> None:
    """Test images to choose from."""
    tiles = [{**test_tile(study, i, 96), "selected": i == current} for i in ids]
    gallery(tiles, key="mistakes", size=82, on_pick=on_pick)  # type: ignore[arg-type]  # mypy widens the literal


def train_gallery(study: ic.Study, scores: ic.Scores, ids: list[int], flagged: set[int], key: str) -> None:
    """Training images with their mislabel scores as bars."""
    place = (-scores.values).argsort(stable=True).argsort() + 1
    tiles = [
        train_tile(
            study,
            i,
            i in flagged,
            note=f"#{i} · rank {int(place[i])}",
            bar=1 - (int(place[i]) - 1) / len(place),
            kind="suspect",
        )
        for i in ids
    ]
    gallery(tiles, key=key, size=92)
