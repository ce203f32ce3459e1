"""JSON files with a hash over what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from influence_core.errors import InvalidInput
from influence_core.files import write_whole

_MOST = 64 * 2**20


def write_sealed(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON, whole or not at all.

    Args:
        path: file to write.
        facts: plain values.

    Raises:
        InvalidInput: if the file cannot be written.
    """
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_whole(path, json.dumps({"facts": facts, "sha256": digest}, sort_keys=True, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what ``write_sealed`` wrote.

    Args:
        path: the file.

    Returns:
        The facts.

    Raises:
        InvalidInput: if the file is missing, or was changed since.
    """
    try:
        if path.stat().st_size > _MOST:
            raise InvalidInput(f"{path} is too large for a file of the store: remove it")
        whole = json.loads(path.read_bytes())
        facts = whole["facts"]
        right = whole["sha256"] == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    except InvalidInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path} is no file of the store, or was cut short ({error}): remove it") from error
    if not right or not isinstance(facts, dict):
        raise InvalidInput(f"{path} was changed or damaged after it was written (its checksum differs): remove it")
    return facts
