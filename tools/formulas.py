"""A Markdown extension that writes formulas as MathML, so that the pages need neither a script nor the network for them.

`$…$` within a line of text and fences called `math` are read, as on the pages where code is hosted.
"""

from __future__ import annotations

from re import Match
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert, convert_to_element
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor

INLINE = r"(?<![\\$\w])\$(?![\s$])([^$]+?)(?<!\s)\$(?![\w$])"
BEFORE_BACKSLASHES = 185  # escapes have 180 and code spans 190: \big stays whole, and a dollar in code is a dollar


class Formula(InlineProcessor):
    """One formula within text."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[ElementTree.Element, int, int]:  # type: ignore[override]
        """Return the element that takes the place of the match."""
        return convert_to_element(m[1]), m.start(0), m.end(0)


class Formulas(Extension):
    """Formulas within text."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add them to the patterns of a page."""
        md.inlinePatterns.register(Formula(INLINE, md), "formula", BEFORE_BACKSLASHES)


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Markdown, **_: Any) -> str:
    """Return a fence of formulas, a display of its own."""
    return f'<div class="formula">{convert(source, display="block")}</div>'


def makeExtension(**_: Any) -> Formulas:
    """Return the extension, under the name that Markdown looks for."""
    return Formulas()
