"""What a model said as HTML: phrases in the colours of what they mean, everything escaped."""

import html
from collections.abc import Sequence

from mmcore.show.text import Run, readable


def in_html(runs: Sequence[Run]) -> str:
    """A paragraph; nothing that a model or a class name says is taken for markup."""
    pieces: list[str] = []
    for text, colour in runs:
        words = html.escape(text).replace("\n", "<br>")
        if colour is not None:
            ink, paper = (f"rgb({', '.join(map(str, one))})" for one in (readable(colour), colour))
            words = f'<mark style="background: {paper}; color: {ink}; padding: 0 .2em">{words}</mark>'
        pieces.append(words)
    return f'<p style="font-size: 1.1em; line-height: 1.6">{"".join(pieces)}</p>'
