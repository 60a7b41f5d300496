"""BibTeX of the papers that the parts of a spec come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

__all__ = ["bibliography", "cite", "references"]


def references(*specs: Any) -> tuple[str, ...]:
    """Return the keys of the papers behind specs and all the parts inside them, sorted, each once.

    >>> from tightbound import IWAE
    >>> references(IWAE(k=5))
    ('burda2016importance', 'tucker2019doubly')
    """
    found: set[str] = set()
    for spec in specs:
        found.update(getattr(spec, "references", ()))
        if isinstance(spec, BaseModel):
            found.update(references(*(getattr(spec, name) for name in type(spec).model_fields)))
    return tuple(sorted(found))


def bibliography() -> dict[str, str]:
    """Return every BibTeX entry by its key."""
    text = (Path(__file__).parent / "references.bib").read_text(encoding="utf-8")
    entries = ["@" + entry.strip() for entry in text.split("\n@")]
    entries[0] = entries[0].removeprefix("@")
    return {entry.split("{", 1)[1].split(",", 1)[0]: entry for entry in entries}


def cite(*specs: Any) -> str:
    """Return the BibTeX entries of the papers behind specs, in the order of their keys.

    >>> from tightbound import VampPrior
    >>> print(cite(VampPrior()).splitlines()[0])
    @inproceedings{tomczak2018vae,
    """
    entries = bibliography()
    return "\n\n".join(entries[key] for key in references(*specs))
