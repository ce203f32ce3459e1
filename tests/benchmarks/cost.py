"""Expected and real seconds of every estimator on the bundled digits.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.cost

Each is fitted and asked once, for the influence on ten test images, for mislabel scores and for the label influence, or
for the removal of ten training images; what is expected to take longer than ``--seconds`` is left out. The passes are
measured anew for each, as other work on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import time
import warnings

import influence_core as ic
from influence_core.estimators import Estimator, Expected
from tests.estimator_settings import own_estimators

TESTS = 10
ASKED = ("influence", "mislabel_scores", "label_influence", "parameter_change")


def took(estimator: Estimator, study: ic.Study, what: str) -> tuple[float, float]:
    """Real seconds of fit and call."""
    begun = time.perf_counter()
    estimator.fit(study)
    fitted = time.perf_counter()
    arguments = [list(range(TESTS))] if what in ("influence", "parameter_change") else []
    getattr(estimator, what)(*arguments)
    return fitted - begun, time.perf_counter() - fitted


def line(name: str, what: str, expected: Expected, real: tuple[float, float] | None) -> str:
    """A row of the table."""
    numbers = [expected.fit_seconds, expected.query_seconds, expected.seconds]
    row = f"{name:18}{what:18}" + "".join(f"{'?' if n is None else f'{n:.2f}':>9}" for n in numbers)
    if real is None or expected.seconds is None:
        return row
    ratio = sum(real) / expected.seconds if expected.seconds else float("nan")
    return f"{row}  {real[0]:8.2f}{real[1]:9.2f}{sum(real):9.2f}   {ratio:6.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="leave out what is expected to take longer")
    parser.add_argument("--only", nargs="*", help="names of estimators")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    study = ic.demo.digits()
    ic.estimators.Loss().fit(study).mislabel_scores()  # what torch does once
    print("expected seconds of fit, call and both; real ones of the same; real / expected")
    for cls in own_estimators():
        for what in (w for w in ASKED if w in cls.gives() and cls.name in (options.only or [cls.name])):
            fresh = study.replaced()
            expected = ic.estimators.expected_cost(fresh, cls(), what, TESTS)
            within = expected.seconds is not None and expected.seconds <= options.seconds
            print(line(cls.name, what, expected, took(cls(), fresh, what) if within else None), flush=True)


if __name__ == "__main__":
    main()
