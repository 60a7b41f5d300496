"""Every error that tightbound raises on purpose, as one tree.

::

    TightboundError
    ├── SpecError            a part or a plan was described wrongly (unknown field, value out of range, unknown kind)
    ├── CombinationError     the parts are fine but do not go together (a KL that does not exist, a gradient that is biased)
    ├── DataError            the data cannot be read or is not usable as it stands
    │   └── SupportError     values lie where the likelihood has no mass
    ├── StoreError           a run folder cannot be written or read
    │   ├── FormatError      the file is truncated, foreign or of a newer format
    │   ├── OutputExistsError
    │   └── UntrustedError   the file names code that has not been trusted
    └── TrainingError        a run had to stop (non-finite gradients step after step, a resume that does not fit)

Every message says what was given, what was expected and what to do. The command line prints the message and exits
with code 2; a library user catches ``TightboundError`` or one of its branches.
"""

from __future__ import annotations

__all__ = [
    "CombinationError",
    "DataError",
    "FormatError",
    "OutputExistsError",
    "SpecError",
    "StoreError",
    "SupportError",
    "TightboundError",
    "TrainingError",
    "UntrustedError",
]


class TightboundError(Exception):
    """The root: catch it to catch every error that tightbound raises on purpose."""


class SpecError(TightboundError, ValueError):
    """A spec was given unknown fields or values out of range; ``problems`` holds (path, message) pairs."""

    def __init__(self, what: str, problems: tuple[tuple[str, str], ...] = ()) -> None:
        self.what = what
        self.problems = problems
        lines = [f"{path}: {message}" if path else message for path, message in problems]
        super().__init__("\n  ".join([what, *lines]) if len(lines) > 1 else ": ".join([what, *lines]))


class CombinationError(TightboundError, ValueError):
    """Parts that are fine on their own do not go together."""


class DataError(TightboundError, ValueError):
    """The data cannot be read or is not usable as it stands."""


class SupportError(DataError):
    """Values lie where the likelihood has no mass."""


class StoreError(TightboundError, OSError):
    """A run folder cannot be written or read."""


class FormatError(StoreError):
    """A stored file is truncated, foreign or of a newer format."""


class OutputExistsError(StoreError):
    """The output already exists and would be overwritten."""


class UntrustedError(StoreError):
    """A stored spec names code that the caller has not said to trust."""


class TrainingError(TightboundError, RuntimeError):
    """A training run had to stop, or cannot be resumed."""
