"""Writing safetensors files tensor by tensor, so that a file is never in memory as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.identity import bytes_of

_KINDS = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""What the format calls each kind of number, in the order in which the safetensors package writes them."""

_ALIGNED = 8


def check_kinds(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that no safetensors file can hold.

    Args:
        tensors: name -> tensor.

    Raises:
        InvalidInput: naming the first.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS or tensor.layout != torch.strided:
            raise InvalidInput(
                f"{name!r} is a {tensor.layout} tensor of {tensor.dtype}, which safetensors files cannot hold: "
                "convert it to an ordinary tensor of another kind first"
            )


def stream_tensors(part: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file, to the byte what ``safetensors.torch.save`` makes.

    Tensors may share memory, or lie in it in any order; each is written out in full.

    Args:
        part: file to fill.
        tensors: name -> tensor, of kinds that ``check_kinds`` lets pass.
        metadata: texts of its header.

    Returns:
        SHA-256 of the file, 64 hexadecimal digits.
    """
    kinds = list(_KINDS)
    order = sorted(tensors, key=lambda name: (kinds.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    digest = hashlib.sha256()
    with part.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            digest.update(piece)
        for name in order:
            numbers = bytes_of(tensors[name])
            file.write(numbers)
            digest.update(numbers)
    return digest.hexdigest()
