"""Plots as inline SVG: text and axes take the page's colour, so light and dark pages both work."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PAGE_COLOUR = "#010203"  # stands for the page's text colour until the SVG is written

_SVG_TAG = re.compile(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>')
_SVG_REFERENCE = re.compile(r'\bid="|url\(#|href="#')


@contextmanager
def page_style() -> Iterator[None]:
    """Figures made in the block fit the page."""
    parts = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(parts, PAGE_COLOUR) | {
        "svg.fonttype": "none",
        "svg.hashsalt": "fakesound",  # the same figure, the same bytes
        "font.family": "sans-serif",
        "font.size": 8.5,
        "axes.titlesize": 9,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        yield


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element; ids are made its own, so that many fit on a page."""
    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(PAGE_COLOUR, "currentColor")
    text = _SVG_TAG.sub(r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    mark = f"p{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    return _SVG_REFERENCE.sub(lambda found: found.group(0) + mark, text)
