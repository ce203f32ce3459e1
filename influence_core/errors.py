"""The errors of the package. Each message names the thing, what was expected, and how to mend it."""


class InfluenceError(Exception):
    """Base of every error that this package raises on purpose; the app shows its message and nothing else."""


class InvalidInput(InfluenceError, ValueError):
    """Data, weights, a file or an argument is not what it has to be."""


class NotSupported(InfluenceError, NotImplementedError):
    """The theory behind an estimator, or the kind of data, does not give what was asked for."""


class NotFitted(InfluenceError, RuntimeError):
    """A result was asked of an estimator before ``fit``."""


class StaleResult(InfluenceError, RuntimeError):
    """A stored result belongs to another study, other data or other settings."""


class ReopenWarning(UserWarning):
    """A study was saved that nobody can open without bringing a part of it; the message says which, and the mend."""


class DamageWarning(UserWarning):
    """A stored file was cut short or changed; the message names it. Its numbers are not used, but computed again."""
