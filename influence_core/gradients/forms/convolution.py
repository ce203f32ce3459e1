"""Gradients of convolution kernels: outer products of output gradients and patches, unfolded as late as possible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from influence_core.gradients.forms.base import Costs, Form
from influence_core.gradients.forms.pairs import pair_sum, position_gram
from influence_core.gradients.layout import Layout
from influence_core.gradients.linalg import onednn_applies
from influence_core.gradients.memory import MIB

PATCH_BYTES = 4 * MIB
"""Patches are unfolded in pieces of about this size, so that the block is still in cache when it is multiplied."""

TINY_KERNEL = 32
"""Up to this many inputs x kernel entries (a network's first layer), patches are copied with positions last."""

GROUPED_POSITIONS = 256
"""From this many output positions on, oneDNN's grouped weight gradient is as fast as patches, without a workspace."""


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its (already padded, but for zeros) input; one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Convolution(Form):
    """The kernel gradient of a convolution with 1, 2 or 3 spatial axes."""

    def __init__(self, inputs: Tensor, outputs: Tensor, shape: tuple[int, ...], geometry: Geometry) -> None:
        """Take the input ``[B, Cin, *S]``, the output gradient ``[B, C, *T]``, the kernel's shape, and the geometry."""
        self.inputs, self.outputs, self.geometry = inputs, outputs, geometry
        self.batch = inputs.shape[0]
        self.kernel_size = math.prod(geometry.kernel)
        self.width = math.prod(shape[1:])
        self.height = shape[0]
        self.positions = math.prod(outputs.shape[2:])
        self.way = self._way()
        plain = Layout.plain(shape)
        axes = tuple(range(2, len(shape)))
        orders = {"grouped": plain.order, "tiny": (1, *axes, 0), "patches": (0, *axes, 1)}
        self.layout = Layout(plain.shape, orders[self.way])

    def _way(self) -> str:
        flat = len(self.geometry.kernel) == 2
        if flat and self.geometry.groups == 1 and self.width <= TINY_KERNEL:
            return "tiny"
        if flat and onednn_applies(self.outputs) and self.positions >= GROUPED_POSITIONS:
            return "grouped"
        return "patches"

    def rows(self) -> Tensor:
        """By the way that suits the shapes; its order of entries is in ``layout``."""
        return {"grouped": self._rows_grouped, "tiny": self._rows_tiny, "patches": self._rows_patches}[self.way]()

    def _rows_grouped(self) -> Tensor:
        # The batch as groups of a single image: the ordinary weight gradient then keeps the samples apart.
        batch, groups, geometry = self.batch, self.batch * self.geometry.groups, self.geometry
        inputs = self.inputs.contiguous()
        outputs = self.outputs.contiguous()
        weight = inputs.new_empty(batch * self.height, *self.layout.shape[1:])  # only its shape is looked at
        _, gradient, _ = torch.ops.aten.convolution_backward(
            outputs.reshape(1, batch * self.height, *outputs.shape[2:]),
            inputs.reshape(1, batch * inputs.shape[1], *inputs.shape[2:]),
            weight,
            None,
            list(geometry.stride),
            list(geometry.padding),
            list(geometry.dilation),
            False,
            [0] * len(geometry.kernel),
            groups,
            [False, True, False],
        )
        return gradient.reshape(batch, -1)

    def _rows_tiny(self) -> Tensor:
        # Copied as runs along image rows, which for few channels is several times as fast as torch's unfold.
        (high, wide), (down, right), (apart, across) = (
            self.geometry.padding,
            self.geometry.stride,
            self.geometry.dilation,
        )
        padded = F.pad(self.inputs, (wide, wide, high, high)).contiguous()
        sample, channel, row, column = padded.stride()
        sizes = (self.batch, padded.shape[1], *self.geometry.kernel, *self.outputs.shape[2:])
        view = padded.as_strided(sizes, (sample, channel, row * apart, column * across, row * down, column * right))
        patches = view.reshape(self.batch, self.width, self.positions)
        return torch.bmm(patches, _positions_first(self.outputs)).reshape(self.batch, -1)

    def _rows_patches(self) -> Tensor:
        groups, each = self.geometry.groups, self.height // self.geometry.groups
        rows = self.outputs.new_empty(self.batch, groups, each, self.width)
        outputs = _positions_first(self.outputs).reshape(self.batch, self.positions, groups, each)
        for some, patches in self._patches():
            piece = outputs[some].permute(0, 2, 3, 1).reshape(-1, each, self.positions)
            torch.bmm(piece, patches.flatten(0, 1), out=rows[some].view(-1, each, self.width))
        return rows.reshape(self.batch, -1)

    def _padded(self) -> Tensor:
        """The input, zeros around it, channels last: ``[B, *S, Cin]``."""
        last = self.inputs.movedim(1, -1)
        pads = [side for width in reversed(self.geometry.padding) for side in (width, width)]
        return F.pad(last, (0, 0, *pads)) if any(pads) else last.contiguous()

    def _patches(self) -> Iterator[tuple[slice, Tensor]]:
        """Patches of a few samples at a time, ``[b, groups, T, K]``, channels last."""
        view = self._patch_view()
        bytes_of_one = self.geometry.groups * self.positions * self.width * view.element_size()
        at_once = max(1, PATCH_BYTES // max(1, bytes_of_one))
        for start in range(0, self.batch, at_once):
            some = slice(start, min(start + at_once, self.batch))
            piece = view[some]
            yield some, piece.reshape(piece.shape[0], self.geometry.groups, self.positions, self.width)

    def _patch_view(self, order: str = "channels last") -> Tensor:
        """Patches as a view ``[B, groups, *T, *K]``, K's axes with channels last, or in the kernel's own order."""
        geometry, axes = self.geometry, len(self.geometry.kernel)
        padded = self._padded()
        sample, *steps, channel = padded.stride()
        channels = padded.shape[-1] // geometry.groups
        sizes = (self.batch, *self.outputs.shape[2:], *geometry.kernel, geometry.groups, channels)
        strides = (
            sample,
            *(step * s for step, s in zip(steps, geometry.stride, strict=True)),
            *(step * d for step, d in zip(steps, geometry.dilation, strict=True)),
            channel * channels,
            channel,
        )
        view = padded.as_strided(sizes, strides)
        walk, kernel = list(range(1, 1 + axes)), list(range(1 + axes, 1 + 2 * axes))
        last = [*kernel, 2 + 2 * axes] if order == "channels last" else [2 + 2 * axes, *kernel]
        return view.permute(0, 1 + 2 * axes, *walk, *last)

    def costs(self) -> Costs:
        """Explicit T K C; ghost through pixels or through patches, whichever has the smaller Gram matrix."""
        t, k, c, groups = self.positions, self.width, self.height, self.geometry.groups
        kept = (self.inputs.numel() + self.outputs.numel()) / max(self.batch, 1)
        pair = None if groups > 1 else t * t * (c + 4) + min(self._pixel_cost(), t * t * k)
        return Costs(explicit=t * k * c, size=k * c, pair=pair, kept=kept)

    def _pixel_cost(self) -> float:
        pixels = math.prod(self.inputs.shape[2:])
        passes = 4.0 * sum(self.geometry.kernel)  # shifted sums are memory-bound: about 4 multiply-adds an entry
        return pixels * pixels * (self.inputs.shape[1] + passes)

    def narrow(self, start: int, stop: int) -> Convolution:
        """Slices of both sides."""
        return Convolution(self.inputs[start:stop], self.outputs[start:stop], self.layout.shape, self.geometry)

    def matches(self, other: Form) -> bool:
        """Of equal sizes: those of a padded sequence are of its batch."""
        return isinstance(other, Convolution) and self.inputs.shape[1:] == other.inputs.shape[1:]

    @classmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """One after the other."""
        inputs, outputs = torch.cat([f.inputs for f in forms]), torch.cat([f.outputs for f in forms])
        return cls(inputs, outputs, forms[0].layout.shape, forms[0].geometry)

    def gram(self, other: Self) -> Tensor:
        """``sum_ts (patch_t . patch'_s)(d_t . d'_s)``."""
        left_outputs, right_outputs = _positions_first(self.outputs), _positions_first(other.outputs)
        if self._pixel_cost() < self.positions**2 * self.width:
            left, right = _positions_first(self.inputs), _positions_first(other.inputs)

            def inputs_gram(some: slice) -> Tensor:
                return self._shifted(position_gram(left, right[some]), other)
        else:
            left, right = self._all_patches(), other._all_patches()

            def inputs_gram(some: slice) -> Tensor:
                return position_gram(left, right[some])

        def pair(some: slice) -> tuple[Tensor, Tensor]:
            return position_gram(left_outputs, right_outputs[some]), inputs_gram(some)

        pixels = max(self.positions, math.prod(self.inputs.shape[2:]))
        other_pixels = max(other.positions, math.prod(other.inputs.shape[2:]))
        return pair_sum(pair, self.batch, other.batch, pixels, other_pixels)

    def _shifted(self, gram: Tensor, other: Convolution) -> Tensor:
        """The Gram matrix of patches from that of pixels: its sums over the kernel's offsets.

        The offset is the same on both sides and the sum over a kernel is a sum over its axes, one after the other, so
        that k + k instead of k * k shifted copies are added up.

        Returns:
            ``[T, B, S, M]``.
        """
        here, there = list(self.inputs.shape[2:]), list(other.inputs.shape[2:])
        batch, others = gram.shape[1], gram.shape[3]
        axes = len(here)
        gram = gram.reshape(*here, batch, *there, others)
        for axis, out_here, out_there in zip(range(axes), self.outputs.shape[2:], other.outputs.shape[2:], strict=True):
            gram = _shift_axis(gram, axis, axes + 1 + axis, out_here, out_there, self.geometry)
        return gram.reshape(self.positions, batch, other.positions, others)

    def _all_patches(self) -> Tensor:
        return torch.cat([patches[:, 0] for _, patches in self._patches()])

    def squared_norms(self) -> Tensor | None:
        """Through the Gram matrices of each sample's own positions, where these are few."""
        t, k, c = self.positions, self.width, self.height
        if self.geometry.groups > 1 or t * (k + c) > k * c:
            return None
        outputs = _positions_first(self.outputs)
        norms = []
        for some, patches in self._patches():
            grams = torch.bmm(patches[:, 0], patches[:, 0].transpose(1, 2))
            norms.append(grams.mul_(torch.bmm(outputs[some], outputs[some].transpose(1, 2))).sum((1, 2)))
        return torch.cat(norms)

    def total(self) -> Tensor:
        """The ordinary weight gradient."""
        g = self.geometry
        weight = self.outputs.new_empty(self.layout.shape)  # only its shape is looked at
        return torch.ops.aten.convolution_backward(
            self.outputs,
            self.inputs,
            weight,
            None,
            list(g.stride),
            list(g.padding),
            list(g.dilation),
            False,
            [0] * len(g.kernel),
            g.groups,
            [False, True, False],
        )[1]

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Output gradients and patches, entries in the kernel's own order; None for grouped convolutions."""
        if self.geometry.groups > 1:
            return None
        patches = self._patch_view(order="kernel").reshape(self.batch, self.positions, self.width)
        return _positions_first(self.outputs), patches

    def fast_factors(self) -> tuple[Tensor, Tensor, Layout] | None:
        """Patches with channels last are copied in runs, several times as fast."""
        if self.geometry.groups > 1:
            return None
        patches = self._patch_view().reshape(self.batch, self.positions, self.width)
        order = Layout(self.layout.shape, (0, *range(2, len(self.layout.shape)), 1))
        return _positions_first(self.outputs), patches, order

    def projected_factors(self, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """Patches times a matrix are a convolution."""
        g = self.geometry
        if g.groups > 1:
            return None
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(g.kernel) - 1]
        kernel = inputs.reshape(-1, *self.layout.shape[1:])
        projected = convolve(self.inputs, kernel, None, g.stride, g.padding, g.dilation)
        return _positions_first(self.outputs) @ outputs.T, _positions_first(projected)


def _positions_first(images: Tensor) -> Tensor:
    """``[B, C, *T] -> [B, T, C]``; free for channels-last images."""
    return images.movedim(1, -1).reshape(images.shape[0], -1, images.shape[1])


def _shift_axis(gram: Tensor, axis: int, other_axis: int, size: int, other_size: int, geometry: Geometry) -> Tensor:
    """Sum over one kernel axis of the Gram matrix shifted along that axis on both sides."""
    kernel, stride = geometry.kernel[axis], geometry.stride[axis]
    padding, dilation = geometry.padding[axis], geometry.dilation[axis]
    shape = list(gram.shape)
    shape[axis], shape[other_axis] = size, other_size
    result: Tensor | None = None
    # The middle tap usually reaches every position: starting with a copy of it saves clearing the result.
    for tap in sorted(range(kernel), key=lambda tap: abs(tap * dilation - padding)):
        offset = tap * dilation - padding
        first = max(0, -(offset // stride))
        starts, counts, source = [], [], gram
        for where, length in ((axis, size), (other_axis, other_size)):
            count = max(0, min(length - 1, (gram.shape[where] - 1 - offset) // stride) - first + 1)
            begin = first * stride + offset
            picked = [slice(None)] * gram.dim()
            picked[where] = slice(begin, begin + (count - 1) * stride + 1 if count else begin, stride)
            source = source[tuple(picked)]
            starts.append(min(first, length))
            counts.append(count)
        if result is None and list(source.shape) == shape:
            result = source.clone(memory_format=torch.contiguous_format)
            continue
        if result is None:
            result = gram.new_zeros(shape)
        if source.numel():
            result.narrow(axis, starts[0], counts[0]).narrow(other_axis, starts[1], counts[1]).add_(source)
    assert result is not None, "a kernel has at least one tap"
    return result
