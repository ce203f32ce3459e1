"""The relation graph against its definition, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from influence_core.estimators import RelationGraph
from tests.helpers import study
from tests.oracle.test_detection_baselines import probabilities


@pytest.mark.parametrize("layer", ["logits", "penultimate"])
@pytest.mark.parametrize(
    ("temperature", "regularisation", "cutoff", "rounds"),
    [(4.0, 0.05, 0.03, 1), (1.0, 0.0, 0.0, 2), (2.0, 0.3, 0.2, 0)],
)
def test_relation_graph(layer, temperature, regularisation, cutoff, rounds):
    small = study(noise=0.5)
    labels = small.train.labels.tolist()
    inputs, _ = small.train.batch(range(24))
    with torch.no_grad():
        rows = (small.model if layer == "logits" else small.model[:4])(inputs).flatten(1).tolist()
    p = probabilities(small.model, small.train)

    def related(i: int, j: int) -> float:
        if i == j:
            return 0.0
        inner = math.fsum(a * b for a, b in zip(rows[i], rows[j], strict=True))
        inner /= math.sqrt(math.fsum(a * a for a in rows[i]) * math.fsum(b * b for b in rows[j]))
        found = max(0.0, inner) * math.fsum(a * b for a, b in zip(p[i], p[j], strict=True))
        return found**temperature if found >= cutoff else 0.0

    kernel = [[related(i, j) for j in range(24)] for i in range(24)]
    wrong: set[int] = set()
    ever: set[int] = set()
    for turn in range(rounds + 1):
        if turn:
            given = [agreement[i][labels[i]] for i in range(24)]  # noqa: F821 - of the turn before
            wrong = {i for i in range(24) if given[i] < -regularisation * max(map(abs, given))}
            ever |= wrong
        agreement = [
            [
                math.fsum(kernel[i][j] * (1 if labels[j] == k else -1) * (-1 if j in wrong else 1) for j in range(24))
                for k in range(3)
            ]
            for i in range(24)
        ]
    expected = torch.tensor(agreement, dtype=torch.float64)
    found = RelationGraph(
        temperature=temperature, regularisation=regularisation, cutoff=cutoff, rounds=rounds, layer=layer
    ).fit(small)
    assert torch.allclose(found.label_influence().values, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.mislabel_scores().values, -expected[torch.arange(24), labels], rtol=1e-9, atol=1e-12)
    assert rounds == 0 or ever, "the set is not empty, so that it counts"
