# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""An extension of griffe: docstrings as Transformers writes them become those that mkdocstrings reads."""

import re

from griffe import Extension


ARGUMENT = re.compile(r" *[\w, *]+ \(`.*\):$")
REPLACEMENTS = (
    (r"<Tip>(?s:.*?)</Tip>\n*", ""),
    # an argument's type: `int`, *optional*, defaults to 3
    (r"(?m)^( *[\w, *]+ \()(`.*)(\):)$", lambda found: found[1] + plain_type(found[2]) + found[3]),
    (r"\[`~?([\w.]+)`\]", r"`\1`"),  # [`SalmonnConfig`]
    (r" *\[What are [^\]]*\]\(\.\./glossary[^)]*\)\n?", ""),
    (r"\]\(see (http[^)]*)\)", r"](\1)"),
)


def plain_type(text: str) -> str:
    """The type alone: the default is that of the signature."""
    return re.sub(r"`|\[`~?|`\]|\*|, \*optional\*.*", "", text)


def align_arguments(text: str) -> str:
    """`auto_docstring` indents a method's own arguments further than those that it knows: all of them alike."""
    first, shift, lines = None, 0, []
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if first is not None and line.strip() and indent <= first:
            shift = 0
        if ARGUMENT.match(line):
            first = indent if first is None else first
            shift = max(indent - first, 0)
        lines.append(line[shift:] if line[:shift].isspace() else line)
    return "\n".join(lines)


class TransformersDocstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = align_arguments(obj.docstring.value)
            for pattern, replacement in REPLACEMENTS:
                text = re.sub(pattern, replacement, text)
            obj.docstring.value = text
