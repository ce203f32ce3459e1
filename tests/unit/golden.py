"""What every method says about one small study: the numbers that belong to each version of an estimator.

``python -m tests.unit.golden`` writes them anew, after a method has changed and its ``version`` was raised.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influence_core.estimators import Estimator
from influence_core.testing.problems import network_study
from influence_core.testing.tools import values
from tests.estimator_settings import own_estimators, quick

FILE = Path(__file__).with_name("golden_scores.json")
CLOSE = 1e-6
"""Numbers of one version agree to this, relative to their root mean square where they are below it."""

PLACES = 6


def seen(numbers: Tensor) -> dict[str, Any]:
    """A few numbers at fixed places, and the mean of the squares of all."""
    flat = numbers.double().flatten()
    places = torch.linspace(0, len(flat) - 1, PLACES, dtype=torch.float64).round().long()
    return {"values": flat[places].tolist(), "mean_square": float(flat.square().mean()), "shape": list(numbers.shape)}


def scores_of(cls: type[Estimator]) -> dict[str, Any]:
    """The version of an estimator, and what each of its methods says with quick settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of solves that quick settings cut short
        estimator = quick(cls)().fit(network_study())
        found = {method: seen(numbers) for method, numbers in values(estimator).items()}
        if "parameter_change" in cls.gives():
            change = estimator.parameter_change([0, 5])
            found["parameter_change"] = seen(torch.cat([change[name].double().flatten() for name in sorted(change)]))
    return {"version": cls.version, "methods": found}


def agree(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two methods' numbers are the same, up to rounding."""
    if one["shape"] != two["shape"]:
        return False
    size = max(one["mean_square"], two["mean_square"]) ** 0.5
    pairs = [*zip(one["values"], two["values"], strict=True)]
    far = any(abs(a - b) > CLOSE * max(abs(a), abs(b), size) for a, b in pairs)
    return not far and abs(one["mean_square"] - two["mean_square"]) <= CLOSE * size**2


def verdict(name: str, now: dict[str, Any], known: dict[str, Any] | None) -> str:
    """What is wrong with an estimator's version, in a sentence; nothing if all is well."""
    anew = "write the numbers anew with python -m tests.unit.golden"
    if known is None:
        return f"{name} has no numbers in {FILE.name}: {anew}"
    if now["version"] != known["version"]:
        return f"{name} is of version {now['version']} and {FILE.name} has version {known['version']}: {anew}"
    other = sorted(now["methods"].keys() ^ known["methods"].keys())
    other += [m for m in now["methods"] if m not in other and not agree(now["methods"][m], known["methods"][m])]
    if other:
        return (
            f"the numbers of {name} changed ({', '.join(other)}) and its version did not: results that are kept would "
            f"be given for the new method's. Raise {name}.version above {known['version']}, and {anew}; or mend what "
            "changed them"
        )
    return ""


def known_scores() -> dict[str, Any]:
    """What the file says: estimator -> version and numbers."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def main() -> None:
    """Write the file."""
    torch.set_num_threads(1)  # as the tests do
    known = known_scores() if FILE.exists() else {}
    found = {cls.name: scores_of(cls) for cls in own_estimators()}
    for name in sorted(found):
        if verdict(name, found[name], known.get(name)) == "":
            found[name] = known[name]  # its last digits stay
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
