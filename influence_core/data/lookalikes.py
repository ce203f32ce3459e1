"""Samples that look alike: exact copies, and copies that were scaled, brightened or compressed anew.

A sample is boiled down to a grey picture of at most 16 x 16 pixels, without its mean and its contrast. Two samples may
be alike if these agree almost wholly; pictures of one thing, and handwritten digits of one kind, agree much less. Drawn
shapes and logos agree too, in whatever colours: so the samples themselves are then compared, all channels and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influence_core.data.dataset import LabelledDataset
from influence_core.errors import NotSupported
from influence_core.progress import track

SIDE = 16
"""Pixels of the longer side of what is compared."""

LIKENESS = 0.99
"""Correlation from which two pictures are one: a JPEG of quality 30 keeps 0.995 with what it was made of."""

WHOLE = 0.9
"""Correlation of all numbers from which two such samples are one. CIFAR-10 pictures as JPEG of quality 10, brighter,
with half the colour or half as large have more, where they are as alike as ``LIKENESS`` says; drawings of one shape in
other colours have 0.7 to 0.85."""

FINE = 100
"""Pixels below which a correlation says too little, so that only equal samples count."""

_CHUNK = 512
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Pictures:
    """Small grey pictures of some samples, made once and compared often.

    Attributes:
        data: the samples.
        ids: of the samples, int64 [n].
        rows: one unit vector each, [n, pixels]; zero for a picture of one colour.
        keys: equal for samples with equal inputs, int64 [n].
    """

    data: LabelledDataset
    ids: Tensor
    rows: Tensor
    keys: Tensor


def small_pictures(data: LabelledDataset, ids: Sequence[int] | Tensor | None = None) -> Pictures:
    """Boil samples down to what ``lookalikes`` compares.

    Args:
        data: images [C, H, W] or [H, W].
        ids: which samples; all by default.

    Returns:
        The small pictures.

    Raises:
        NotSupported: if the samples are no images.
    """
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.int64).flatten()
    rows, keys = [], []
    for some in track(list(chosen.split(_CHUNK)), f"{data.name} images that look alike"):
        inputs: Any = data.batch(some)[0]
        if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
            raise NotSupported(f"the {data.name} samples are no images, so nothing can be said of how alike they look")
        keys.append(_keys(inputs))
        grey = inputs.float()[:, None] if inputs.ndim == 3 else inputs.float().mean(1, keepdim=True)
        height, width = grey.shape[2:]
        scale = max(1.0, max(height, width) / SIDE)
        shape = (max(1, round(height / scale)), max(1, round(width / scale)))
        small = torch.nn.functional.adaptive_avg_pool2d(grey, shape).flatten(1).nan_to_num(0.0, 0.0, 0.0)
        small = small - small.mean(1, keepdim=True)
        norms = small.norm(dim=1, keepdim=True)
        flat = norms <= 1e-4 * grey.flatten(1).abs().amax(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0).clamp_min(1e-12)
        rows.append(torch.where(flat, 0.0, small / norms.clamp_min(1e-30)))
    if not rows:
        return Pictures(data, chosen, torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    return Pictures(data, chosen, torch.cat(rows), torch.cat(keys))


def lookalikes(
    one: Pictures, other: Pictures | None = None, likeness: float | None = None
) -> list[tuple[int, int, float]]:
    """Pairs of samples that are equal, or look alike.

    Args:
        one: pictures of a dataset.
        other: of another one; by default pairs within ``one`` are looked for.
        likeness: correlation from which two pictures are alike; by default ``LIKENESS``, and of tiny pictures (below
            ``FINE`` pixels) only equal ones count.

    Returns:
        (id in ``one``, id in ``other``, likeness), the most alike first; a likeness of 2 says that the inputs are
        equal. Within one dataset each pair comes once, the smaller id first.
    """
    second = one if other is None else other
    if one.rows.shape[1:] != second.rows.shape[1:] or not len(one.ids) or not len(second.ids):
        return []
    tiny = one.rows.shape[1] < FINE
    least = (math.inf if tiny else LIKENESS) if likeness is None else likeness
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(one.ids), _ROWS):
        some = slice(start, start + _ROWS)
        alike = one.rows[some] @ second.rows.T
        alike[one.keys[some, None] == second.keys[None]] = 2.0
        if other is None:
            below = torch.arange(len(second.ids))[None] <= torch.arange(start, start + len(alike))[:, None]
            alike[below] = -1.0
        first, last = (alike >= min(least, 2.0)).nonzero(as_tuple=True)
        values = alike[first, last].tolist()
        found += zip(one.ids[some][first].tolist(), second.ids[last].tolist(), values, strict=True)
    found = [pair for pair, whole in zip(found, _whole(one, second, found), strict=True) if whole >= WHOLE]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _whole(one: Pictures, other: Pictures, pairs: Sequence[tuple[int, int, float]]) -> list[float]:
    """Correlation of all numbers of both samples, of the larger one scaled down; 1 where they are known to be equal."""
    correlations = []
    for first, second, likeness in pairs:
        if likeness == 2.0:
            correlations.append(1.0)
            continue
        a, b = (p.data.batch([i])[0][0].float() for p, i in ((one, first), (other, second)))
        shape = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
        a, b = (torch.nn.functional.adaptive_avg_pool2d(x.reshape(1, -1, *x.shape[-2:]), shape)[0] for x in (a, b))
        if len(a) != len(b):  # grey and colour
            a, b = a.mean(0), b.mean(0)
        correlations.append(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]))
    return correlations


def _keys(inputs: Tensor) -> Tensor:
    """A number for each sample that is the same for equal inputs, and another for others but for one in 2**60."""
    whole = inputs.flatten(1)
    plain = whole.contiguous().view(torch.uint8) if whole.dtype != torch.bool else whole.to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    keys = torch.zeros(len(plain), dtype=torch.int64)
    for columns in plain.split(4096, dim=1):
        factors = torch.randint(1, 2**62, (columns.shape[1],), generator=generator)
        keys += (columns.to(torch.int64) * factors).sum(1)  # wraps around, which is what a hash may do
    return keys
