"""All checks on one subject."""

from __future__ import annotations

from tightbound.diagnosis.checks import CHECKS
from tightbound.diagnosis.finding import Finding
from tightbound.diagnosis.subject import Subject

__all__ = ["diagnose"]


def diagnose(subject: Subject) -> tuple[Finding, ...]:
    """Return one finding per code, in the order of the codes.

    A check that needs what is not there (held-out rows, metrics, a mixture prior) is ``not applicable``, with the reason;
    so is one that raises a :class:`~tightbound.errors.TightboundError`. Other errors are bugs and are not caught.

    >>> from tightbound.testing import linear_gaussian
    >>> exact = linear_gaussian(diagonal=True)
    >>> [str(finding.status) for finding in diagnose(Subject(exact.model, exact.dataset(50)))][:2]
    ['ok', 'ok']
    """
    return tuple(check(subject) for check in CHECKS)
