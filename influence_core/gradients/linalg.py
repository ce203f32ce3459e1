"""Matrix products on the library that is fastest on this processor."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def prefers_onednn() -> bool:
    """Whether float32 products on the CPU go through oneDNN instead of the BLAS.

    MKL takes its AVX2 kernels on processors that are not Intel's, even where AVX-512 is there; oneDNN looks at what
    the processor can do. The difference is a factor of two to three.

    Returns:
        An answer that depends on the machine alone, so that results are reproducible on it bit for bit.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "GenuineIntel" not in cpuinfo.read_text(errors="replace")


def onednn_applies(tensor: Tensor) -> bool:
    """Whether products with this tensor should go through oneDNN."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and prefers_onednn()


def cross_product(left: Tensor, right: Tensor, shift: Tensor | None = None) -> Tensor:
    """``left @ right.T``, plus ``shift`` in every row.

    Args:
        left: ``[N, P]``.
        right: ``[M, P]``.
        shift: ``[M]``, or None.

    Returns:
        Contiguous ``[N, M]``.
    """
    if onednn_applies(left) and left.numel() and right.numel() and left.is_contiguous() and right.is_contiguous():
        return torch.ops.mkldnn._linear_pointwise(left, right, shift, "none", [], "")
    return left @ right.T if shift is None else torch.addmm(shift, left, right.T)


def long_cross_product(left: Tensor, right: Tensor) -> Tensor:
    """The same for few, very long rows; the result may be a transposed view.

    oneDNN rearranges its second operand on every call, which costs as much as the product itself where that is the
    larger one: the smaller one goes there.

    Args:
        left: ``[B, P]``.
        right: ``[M, P]``.

    Returns:
        ``[B, M]``.
    """
    if left.shape[0] < right.shape[0]:
        return cross_product(right, left).T
    return cross_product(left, right)
