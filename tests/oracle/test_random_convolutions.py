"""Convolutions that Hypothesis makes up, against one backward pass per sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from influence_core.gradients import Gradients, SquaredNorms, inner_products, sweep
from tests.cases import squares
from tests.references import assert_close, flat, one_by_one


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel, dilation = each(1, 3), each(1, 2)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding: tuple[int, ...] | str = draw(st.sampled_from(["same", "valid", "numbers", "numbers"]))
    stride = (1,) * axes if padding == "same" else each(1, 3)
    if padding == "numbers":
        padding = each(0, 2)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    size = tuple(max(r, 4) + extra for r, extra in zip(reach, each(0, 3), strict=True))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    layer = kind(
        inputs,
        outputs,
        kernel,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        dilation,  # type: ignore[arg-type]
        groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    images = torch.randn(4, inputs, *size, dtype=torch.float64)
    if axes == 2 and draw(st.booleans()):
        images = images.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(layer, nn.Tanh()).double(), images


@pytest.mark.parametrize("way", ["chosen", "grouped", "ghost"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=convolutions(), seed=st.integers(0, 3))
def test_convolution(
    monkeypatch: pytest.MonkeyPatch, way: str, made: tuple[nn.Module, torch.Tensor], seed: int
) -> None:
    with monkeypatch.context() as patch:
        if way == "grouped":  # the way of float32 on some processors, here in float64
            patch.setattr("influence_core.gradients.forms.convolution.onednn_applies", lambda tensor: True)
            patch.setattr("influence_core.gradients.forms.convolution.GROUPED_POSITIONS", 0)
            patch.setattr("influence_core.gradients.forms.convolution.TINY_KERNEL", 0)
        ghost = way == "ghost"
        patch.setattr(
            "influence_core.gradients.queries.prefers_ghost", lambda costs, queries: ghost and costs.pair is not None
        )
        model, images = made
        torch.manual_seed(seed)
        data = (images, torch.randn(len(images), dtype=torch.float64))
        expected = one_by_one(model, squares, data)
        gradients, norms = Gradients(), SquaredNorms()
        sweep(model, squares, data, [norms], batch_size=3)
        report = sweep(model, squares, data, [gradients], batch_size=3)
        assert not report.coverage.fallback
        assert_close(flat(gradients.result()), flat(expected))
        assert_close(norms.result(), flat(expected).square().sum(1))
        assert_close(inner_products(model, squares, data, data, batch_size=3), flat(expected) @ flat(expected).T)
