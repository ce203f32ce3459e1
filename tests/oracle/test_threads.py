"""Any number of threads on one study: nothing raises, nothing is left behind, and every number is that of one thread.

    python -m tests.oracle.test_threads                    # the full size, on a third of the bundled digits
    python -m tests.oracle.test_threads --rounds 2

Eight threads fit and ask a different estimator each, all of one study, at once; then two threads share one estimator.
Numbers are compared bit for bit. At the end LastLayer is timed alone and beside a fit of FVM.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.testing.problems import network_study
from influence_core.testing.tools import changed, snapshot
from influence_core.threads import waited

SMALL: dict[str, dict[str, Any]] = {
    "gex": {"members": 2, "epochs": 1, "batch_size": 8, "refresh_batches": 2},
    "fvm": {"steps": 6, "batch_size": 8},
    "laplace": {"samples": 4},
    "el2n": {"runs": 1},
    "ekfac": {},
    "tracin": {},
    "lastlayer": {},
    "samif": {"damping": 1.0, "rho": 0.02},
}
FULL: dict[str, dict[str, Any]] = {
    "gex": {"members": 2, "epochs": 0.5, "refresh_batches": 5},
    "fvm": {"steps": 40},
    "laplace": {"samples": 8},
    "el2n": {"runs": 1, "min_epochs": 1},
    "ekfac": {},
    "tracin": {},
    "lastlayer": {},
    "samif": {"damping": 1.0, "rho": 0.02, "tolerance": 1e-3},
}


def outcome(estimator: ic.Estimator, test: list[int]) -> dict[str, Tensor]:
    """Everything that a fitted estimator gives, for a few test images."""
    found = {}
    for method in ("influence", "self_influence", "mislabel_scores"):
        if method in estimator.gives():
            scores = getattr(estimator, method)(*([test] if method == "influence" else []))
            found[method] = scores.values
    return found


def deviation(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of any number; infinite where shapes or methods differ."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(float((found[m].double() - expected[m].double()).abs().max()) for m in expected)


def together(work: list[Callable[[], None]]) -> list[str]:
    """Run all at once, one thread each, begun at the same moment; what they raised."""
    raised: list[str] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        start.wait()
        try:
            one()
        except BaseException:
            raised.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def process_state() -> list[Any]:
    """What of the process the package may not leave changed."""
    kernels = torch.backends.cuda
    return [
        torch.backends.mha.get_fastpath_enabled(),
        kernels.flash_sdp_enabled(),
        kernels.mem_efficient_sdp_enabled(),
        kernels.math_sdp_enabled(),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        list(warnings.filters),
    ]


class Trial:
    """One study, its answers by one thread, and a count of what went wrong since."""

    def __init__(self, study: ic.Study, settings: dict[str, dict[str, Any]], test: list[int]) -> None:
        self.study, self.settings, self.test = study, settings, test
        self.expected = {name: outcome(self.made(name).fit(study), test) for name in settings}
        self.before, self.state = snapshot(study), process_state()
        self.raised: list[str] = []
        self.largest: dict[str, float] = dict.fromkeys(settings, 0.0)

    def made(self, name: str) -> ic.Estimator:
        return ic.estimators.get(name, **self.settings[name])

    def note(self, name: str, found: dict[str, Tensor]) -> None:
        self.largest[name] = max(self.largest[name], deviation(found, self.expected[name]))

    def apart(self) -> None:
        """Every estimator in a thread of its own, on the one study."""

        def work(name: str) -> None:
            self.note(name, outcome(self.made(name).fit(self.study), self.test))

        self.raised += together([lambda name=name: work(name) for name in self.settings])  # type: ignore[misc]

    def shared(self) -> None:
        """Two threads ask one estimator, for every estimator."""
        for name in self.settings:
            fitted = self.made(name).fit(self.study)
            self.raised += together([lambda: self.note(name, outcome(fitted, self.test))] * 2)  # noqa: B023

    def touched(self) -> list[str]:
        found = changed(self.before, snapshot(self.study))
        return found if process_state() == self.state else [*found, "the process"]


def test_eight_estimators_of_one_study() -> None:
    trial = Trial(network_study(), SMALL, [0, 3])
    for _ in range(3):
        trial.apart()
    assert not trial.raised, trial.raised[0]
    assert trial.largest == dict.fromkeys(SMALL, 0.0)
    assert trial.touched() == []


def test_two_threads_ask_one_estimator() -> None:
    trial = Trial(network_study(), SMALL, [0, 3])
    trial.shared()
    assert not trial.raised, trial.raised[0]
    assert trial.largest == dict.fromkeys(SMALL, 0.0)
    assert trial.touched() == []


def test_the_comparison_sees_one_bit() -> None:
    trial = Trial(network_study(), {"lastlayer": {}}, [0])
    found = {method: values.clone() for method, values in trial.expected["lastlayer"].items()}
    found["influence"][0] = torch.nextafter(found["influence"][0], torch.tensor(1.0, dtype=torch.float64))
    trial.note("lastlayer", found)
    assert trial.largest["lastlayer"] > 0
    trial.study.model.train()
    assert trial.touched()


@pytest.mark.parametrize("name", ["fvm", "el2n"])
def test_lastlayer_waits_for_no_lock_beside_a_training(name: str) -> None:
    study, waiting = network_study(), []

    def ask() -> None:
        outcome(ic.estimators.get("lastlayer").fit(study), [0])
        waiting.append(waited())

    raised = together([lambda: ic.estimators.get(name, **SMALL[name]).fit(study), ask])  # type: ignore[list-item,return-value]
    assert not raised, raised[0]
    assert waiting == [0.0]


def beside_fvm(study: ic.Study, test: list[int]) -> tuple[float, float, float]:
    """LastLayer's seconds alone, beside a fit of FVM, and of these the seconds that it waited for locks."""

    def ask() -> tuple[float, float]:
        begun, already = time.perf_counter(), waited()
        outcome(ic.estimators.get("lastlayer").fit(study), test)
        return time.perf_counter() - begun, waited() - already

    ask()
    alone = sorted(ask()[0] for _ in range(5))[2]
    found: list[tuple[float, float]] = []
    through = threading.Event()

    def fit() -> None:
        ic.estimators.get("fvm", steps=600).fit(study)
        through.set()

    def asking() -> None:
        time.sleep(0.3)
        while not through.is_set() and len(found) < 5:
            found.append(ask())

    for error in together([fit, asking]):
        print(error)
    seconds, waiting = sorted(found)[len(found) // 2]
    return alone, seconds, waiting


def main() -> None:
    """The full size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shared-rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, within one operation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits, test = ic.demo.digits(), [3, 17]
    study = digits.replaced(train=digits.train.subset(torch.arange(0, len(digits.train), 3)))
    begun = time.perf_counter()
    trial = Trial(study, FULL, test)
    print(f"{torch.get_num_threads()} threads of torch; one after the other {time.perf_counter() - begun:.0f} s")
    for kind, rounds in ((trial.apart, options.rounds), (trial.shared, options.shared_rounds)):
        begun = time.perf_counter()
        trial.raised, trial.largest = [], dict.fromkeys(FULL, 0.0)
        for _ in range(rounds):
            kind()
        print(f"\n{(kind.__doc__ or '').strip()} {rounds} rounds, {time.perf_counter() - begun:.0f} s")
        print(f"exceptions: {len(trial.raised)}")
        print("".join(trial.raised[:1]), end="")
        print("max deviation: " + ", ".join(f"{name} {value:g}" for name, value in trial.largest.items()))
        print(f"changed: {', '.join(trial.touched()) or 'nothing'}", flush=True)
    alone, beside, waiting = beside_fvm(digits, test)
    print(f"\nLastLayer alone {alone:.3f} s, beside a fit of FVM {beside:.3f} s: {beside / alone:.2f} times")
    print(f"of these it waited for locks {waiting:.3f} s")


if __name__ == "__main__":
    sys.exit(main())
