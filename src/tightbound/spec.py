"""Specs: a model, an objective or a plan as an immutable value that prints, compares, hashes and is JSON.

A spec holds sizes and choices, never weights. Every spec has a ``kind``, a tag that names it in files and on the command
line, and ``references``, the keys of the papers it implements (see :mod:`tightbound.cite`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer, field_validator

from tightbound.errors import SpecError

__all__ = ["Custom", "Spec", "canonical_json", "customs"]


class Spec(BaseModel):
    """A frozen value with a ``kind`` tag; unknown fields are refused with the allowed ones listed.

    >>> from tightbound import ELBO
    >>> ELBO(beta=4.0) == ELBO.from_json(ELBO(beta=4.0).to_json())
    True
    >>> ELBO(betta=4.0)
    Traceback (most recent call last):
    tightbound.errors.SpecError: ELBO: betta: unknown field; did you mean 'beta'? (allowed: ...)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    references: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise SpecError(type(self).__name__, tuple(_problems(type(self), error))) from None

    def to_json(self) -> str:
        """Return the spec as canonical JSON: sorted keys, no spaces, one form per value."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a spec back from JSON; raise :class:`SpecError` when the text is not JSON or does not describe one."""
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(cls.__name__, (("", f"not valid JSON ({error})"),)) from None
        if not isinstance(fields, dict):
            raise SpecError(cls.__name__, (("", f"expected a JSON object, got {type(fields).__name__}"),))
        return cls(**fields)

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON: equal specs have equal digests, in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, validated as if it had been written anew."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _problems(cls: type[BaseModel], error: ValidationError) -> Iterator[tuple[str, str]]:
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"])
        inner = entry.get("ctx", {}).get("error")
        if isinstance(inner, SpecError):
            for inner_path, message in inner.problems or (("", str(inner)),):
                yield ".".join(part for part in (path, inner_path) if part), message
        elif entry["type"] == "extra_forbidden":
            yield path, _unknown_field(cls, str(entry["loc"][-1]))
        elif entry["type"] == "union_tag_invalid":
            context = entry["ctx"]
            yield path, f"unknown kind '{context['tag']}' (allowed: {context['expected_tags'].replace(chr(39), '')})"
        else:
            yield path, f"{entry['msg'].removeprefix('Value error, ')} (given: {entry['input']!r})"


def _unknown_field(cls: type[BaseModel], name: str) -> str:
    allowed = sorted(cls.model_fields)
    near = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown field{hint} (allowed: {', '.join(allowed)})"


def _freeze(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_freeze(item) for item in value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"arguments of a custom part are finite numbers, strings, booleans and lists of them, not {value!r}")


class Custom(Spec):
    """A part of the user's own: ``target`` names it, ``args`` are its keyword arguments.

    The target is called with ``args`` and whatever the role hands to its parts (see CONTRIBUTING.md for each role).
    A spec that is read from a file is only built when the target is in the caller's ``trust`` list.
    """

    kind: Literal["custom"] = "custom"
    target: str
    args: tuple[tuple[str, Any], ...] = ()

    @field_validator("target")
    @classmethod
    def _has_module_and_name(cls, target: str) -> str:
        module, colon, name = target.partition(":")
        if not (colon and module and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ValueError('expected "package.module:Name"')
        return target

    @field_validator("args", mode="before")
    @classmethod
    def _frozen_args(cls, args: Any) -> Any:
        pairs = args.items() if isinstance(args, Mapping) else args
        return tuple((str(name), _freeze(value)) for name, value in sorted(pairs))

    @field_serializer("args")
    def _args_as_object(self, args: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        return dict(args)

    def resolve(self) -> Any:
        """Import and return the target; raise :class:`SpecError` when it cannot be found."""
        module, _, name = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise SpecError("Custom", (("target", f"cannot import '{self.target}' ({error})"),)) from None

    def build(self, *role: Any, **keywords: Any) -> Any:
        """Call the target with what the role hands to its parts and with ``args``."""
        target = self.resolve()
        try:
            return target(*role, **keywords, **dict(self.args))
        except TypeError as error:
            raise SpecError("Custom", ((self.target, f"{error}; see CONTRIBUTING.md for what each role passes"),)) from error


def customs(spec: Any) -> Iterator[Custom]:
    """Yield every :class:`Custom` part inside a spec, however deep."""
    if isinstance(spec, Custom):
        yield spec
    elif isinstance(spec, BaseModel):
        for name in type(spec).model_fields:
            yield from customs(getattr(spec, name))
    elif isinstance(spec, tuple):
        for item in spec:
            yield from customs(item)
