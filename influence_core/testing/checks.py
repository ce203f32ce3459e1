"""The list of checks, and how they are run on an estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.testing.problems import on_device

Make = Callable[[], Estimator]
"""Makes an estimator that is not fitted; a class whose parameters all have defaults will do."""


class CheckFailed(AssertionError):
    """One or more checks failed; the message says which, and what each found."""


@dataclass(frozen=True)
class Subject:
    """The estimator that is being checked.

    Attributes:
        make: makes it.
        tolerance: deviations up to this share of the largest value count as rounding.
    """

    make: Make
    tolerance: float = 1e-6

    @property
    def cls(self) -> type[Estimator]:
        """Its class."""
        return type(self.make())


@dataclass(frozen=True)
class Check:
    """One promise of the contract.

    Attributes:
        name: as in ``Estimator.exempt`` and in reports.
        run: raises ``AssertionError`` where the promise is not kept.
        about: public methods without which there is nothing to check.
        exemptable: whether an estimator may say that its theory does not give this.
    """

    name: str
    run: Callable[[Subject], None]
    about: frozenset[str]
    exemptable: bool

    @property
    def promise(self) -> str:
        """What is checked, in a sentence."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


CHECKS: dict[str, Check] = {}
"""Every check by its name."""


def check(*about: str, exemptable: bool = False) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a check under the name of its function.

    Args:
        *about: public methods that the estimator has to give.
        exemptable: whether ``Estimator.exempt`` may name it.

    Returns:
        A decorator that leaves the function as it is.
    """

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS[function.__name__] = Check(function.__name__, function, frozenset(about), exemptable)
        return function

    return register


def estimator_checks(make: Make, tolerance: float = 1e-6) -> list[tuple[str, Callable[[], None]]]:
    """The checks that apply to an estimator, for ``pytest.mark.parametrize``.

    Args:
        make: the class, or a function without arguments that makes one with settings that are quick on a few dozen
            images. It is called once per check at least, and has to make the same estimator each time.
        tolerance: deviations up to this share of the largest value count as rounding; an estimator with an iterative
            solver needs its stopping rule in here, or a tighter rule.

    Returns:
        Names and functions without arguments, which raise ``AssertionError`` where the contract is not kept.
    """
    subject = Subject(make, tolerance)
    return [(c.name, partial(c.run, subject)) for c in CHECKS.values() if not _reason_to_skip(c, subject.cls)]


def check_estimator(
    make: Make, tolerance: float = 1e-6, only: str | None = None, device: str = "cpu"
) -> dict[str, str]:
    """Run all checks on an estimator, and report all that fail at once.

    Args:
        make: see ``estimator_checks``.
        tolerance: see ``estimator_checks``.
        only: name of the one check to run; all by default.
        device: on which the models lie, such as "cuda".

    Returns:
        Name of each check -> "passed", or why it does not apply.

    Raises:
        CheckFailed: naming every check that failed, and what it found.
        InvalidInput: if ``only`` is no check, or the device is not there.

    Example:
        >>> import influence_core as ic
        >>> report = ic.testing.check_estimator(ic.estimators.Loss)
        >>> report["batch_size"], report["sign_against_retraining"]
        ('passed', 'gives no influence')
    """
    if only is not None and only not in CHECKS:
        raise InvalidInput(f"there is no check {only!r}; choose one of {', '.join(CHECKS)}")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device is {device!r}, and torch sees no CUDA device here")
    subject = Subject(make, tolerance)
    report: dict[str, str] = {}
    failed: dict[str, str] = {}
    for one in CHECKS.values() if only is None else [CHECKS[only]]:
        reason = _reason_to_skip(one, subject.cls)
        if reason:
            report[one.name] = reason
            continue
        try:
            with on_device(device):
                one.run(subject)
            report[one.name] = "passed"
        except AssertionError as error:
            failed[one.name] = str(error)
        except Exception as error:
            failed[one.name] = f"{type(error).__name__}: {error}"
    if failed:
        listed = "\n".join(f"  {name}: {found}" for name, found in failed.items())
        raise CheckFailed(
            f"{subject.cls.__name__} fails {len(failed)} of {len(failed) + len(report)} checks:\n{listed}"
        )
    return report


def _reason_to_skip(one: Check, cls: type[Estimator]) -> str:
    missing = sorted(one.about - set(cls.gives()))
    if missing:
        return f"gives no {missing[0].replace('_', ' ')}"
    return f"exempt: {cls.exempt[one.name]}" if one.exemptable and one.name in cls.exempt else ""
