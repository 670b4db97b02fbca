# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""An extension of griffe: docstrings as Transformers writes them become those that mkdocstrings reads."""

import re

from griffe import Extension


REPLACEMENTS = (
    (r"<Tip>.*?</Tip>\n*", ""),
    # an argument's type: `int`, *optional*, defaults to 3
    (r"^(\s*[\w, *]+ \()(`.*)(\):)$", lambda found: found[1] + plain_type(found[2]) + found[3]),
    (r"\[`~?([\w.]+)`\]", r"`\1`"),  # [`SalmonnConfig`]
    (r" *\[What are [^\]]*\]\(\.\./glossary[^)]*\)\n?", ""),
    (r"\]\(see (http[^)]*)\)", r"](\1)"),
)


def plain_type(text: str) -> str:
    """The type alone: the default is that of the signature."""
    return re.sub(r"`|\[`~?|`\]|\*|, \*optional\*.*", "", text)


class TransformersDocstrings(Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            for pattern, replacement in REPLACEMENTS:
                obj.docstring.value = re.sub(
                    pattern,
                    replacement,
                    obj.docstring.value,
                    flags=re.MULTILINE | re.DOTALL if "Tip" in pattern else re.MULTILINE,
                )
