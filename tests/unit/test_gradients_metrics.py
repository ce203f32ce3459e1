"""What the diagonal metric refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from influence_core.gradients import squared_norms


def test_weights_that_do_not_fit() -> None:
    model = nn.Linear(3, 2)
    data, loss = (torch.randn(4, 3), torch.zeros(4)), lambda outputs, labels: outputs.square().sum(1)
    with pytest.raises(ValueError, match=r"no weights for 'bias'; give a tensor \(2,\)"):
        squared_norms(model, loss, data, {"weight": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"'weight' have shape \(3, 2\), expected \(2, 3\)"):
        squared_norms(model, loss, data, {"weight": torch.ones(3, 2), "bias": torch.ones(2)})
