"""What mkdocs does to the pages beside what its plugins do."""

from __future__ import annotations

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """A page without the roles of Sphinx in front of the names that docstrings refer to."""
    return re.sub(r":(?:class|func|meth|data|mod):(?=<code>)", "", html)
