"""The record of a finding: a code that stays, a sentence with the number in it, why it matters and what to change."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "problem", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What one check found, in words and as a number.

    ``text`` is one plain sentence: what was measured, or why the check does not apply. ``number`` is the measurement in
    ``unit`` (None where there is none); ``why`` says why it matters and ``change`` what to do when it is a problem.

    >>> finding = Finding("TB001", "posterior collapse", "ok", "the KL is 9 nats", 9.0, "nats", "why", "change")
    >>> print(finding)
    TB001 ok: posterior collapse: the KL is 9 nats
    """

    code: str
    title: str
    status: Status
    text: str
    number: float | None
    unit: str
    why: str
    change: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them: a number that is not finite becomes None."""
        finite = self.number is not None and math.isfinite(self.number)
        return {**asdict(self), "number": self.number if finite else None}

    def __str__(self) -> str:
        return f"{self.code} {self.status}: {self.title}: {self.text}"
