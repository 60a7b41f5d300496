"""Docstrings on their way into the reference: their roles and tables become Markdown, and specs show their fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Attribute, Class, Extension, Object

ROLE = re.compile(r":(?:class|func|meth|data|mod):`~?([\w.]+)`")
RULE = re.compile(r"=+(?: +=+)+$")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Docstrings(Extension):
    """Rewrite the docstring of every object that is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
            if isinstance(obj, Class) and (fields := list(_fields(obj))):
                call = "\n".join(["```python", f"{obj.name}(", *(f"    {field}," for field in fields), ")", "```"])
                obj.docstring.value = f"{call}\n\n{obj.docstring.value}"


def _fields(spec: Class) -> Iterator[str]:
    """What a spec is made from: pydantic writes its signature when it is imported, and the reference imports nothing."""
    if not any(str(base).endswith(("Spec", "BaseModel")) for base in spec.bases):
        return
    for member in spec.members.values():
        if not isinstance(member, Attribute) or "instance-attribute" not in member.labels:  # a property, or the class's own
            continue
        tag = member.name == "kind" and member.value is not None
        if member.annotation is not None and not member.name.startswith("_") and not tag:
            yield f"{member.name}: {member.annotation}" + (f" = {member.value}" if member.value is not None else "")


def markdown(text: str) -> str:
    """Return a docstring with names in code type, tables of Markdown, and examples and literal blocks as fences.

    >>> markdown("As :func:`~tightbound.fit` has it.")
    'As `fit` has it.'
    """
    text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)
    text = ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    lines = text.split("\n")
    while len(rules := [at for at, line in enumerate(lines) if RULE.fullmatch(line.strip())]) >= 3:
        top, middle, bottom = rules[:3]
        starts = [column.start() for column in re.finditer("=+", lines[top])]
        lines[top : bottom + 1] = _table(lines[top + 1 : middle], lines[middle + 1 : bottom], starts)
    return _literal(lines)


def _table(head: list[str], body: list[str], starts: list[int]) -> list[str]:
    rows: list[list[str]] = []
    for line in [*head, *body]:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:  # a line that continues the row above
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
    written = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [written[0], "|" + "---|" * len(starts), *written[1:]]


def _literal(lines: list[str]) -> str:
    """A paragraph that ends in ``::`` announces lines that stand as they are."""
    text: list[str] = []
    inside = False
    for line in lines:
        if inside and line and not line.startswith(" "):
            text.append("```")
            inside = False
        if line.endswith("::"):
            text += [line[:-2], "```text"]
            inside = True
        else:
            text.append(line)
    return "\n".join([*text, "```"] if inside else text)
