"""Site hook: the reference page lists the public names, wherever in the package they live."""

from typing import Any

import jensen


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put one entry for each public name where a page says ``[[public names]]``."""
    options = "\n    options:\n      heading_level: 2"
    entries = (f"::: {home}.{name}{options}" for name, home in sorted(jensen._HOMES.items()))
    return markdown.replace("[[public names]]", "\n\n".join(entries))
