"""Formulas and tables for a notebook: MathML, which a browser sets by itself, and a drawing as SVG.

No script, no font and no file is loaded: what is written here can be mailed. Colours are the page's own.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_TOKEN = re.compile(
    r"Σ_(?P<sum>\w)"
    r"|(?P<name>[^\W\d_]\w*?)(?P<layer>\d*)(?P<mark>ᵀ|'?)(?:\[(?P<letters>[\w,]+)\])?(?![\w'])"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<sign>\S)"
)
_MINUS = {"-": "−"}


def escaped(text: str) -> str:
    """Text as HTML."""
    return html.escape(text)


def formula(text: str) -> str:
    """A formula as MathML; nothing where there is none."""
    if not text:
        return ""
    groups: list[list[str]] = [[]]  # what is inside of each parenthesis that is open
    raised = False
    for match in _TOKEN.finditer(text):
        if match["sign"] == "(":
            groups.append([])
            continue
        if match["sign"] == "^":
            raised = True
            continue
        if match["sign"] == ")":
            inside = "".join(groups.pop())
            element = f"<mrow><mo>(</mo>{inside}<mo>)</mo></mrow>"
        else:
            element = _element(match)
        if raised:
            element, raised = f"<msup>{groups[-1].pop()}{element}</msup>", False
        groups[-1].append(element)
    return f'<math style="white-space:nowrap"><mrow>{"".join(groups[0])}</mrow></math>'


def _element(match: re.Match[str]) -> str:
    if match["sum"]:
        return f"<munder><mo>∑</mo><mi>{match['sum']}</mi></munder>"
    if match["number"]:
        return f"<mn>{match['number']}</mn>"
    if match["sign"]:
        return f"<mo>{html.escape(_MINUS.get(match['sign'], match['sign']))}</mo>"
    return _name(match["name"], match["layer"], match["mark"], match["letters"])


def _name(name: str, layer: str, mark: str, letters: str | None) -> str:
    """A name with its layer below and its transpose above; or, with letters, these below and the layer above."""
    base = f"<mi>{html.escape(name)}</mi>"
    if mark == "'":
        return f"<msup>{base}<mo>′</mo></msup>"
    if letters:
        below = f"<mrow><mi>{letters.replace(',', '</mi><mi>')}</mi></mrow>"
        above = f"<mrow><mo>(</mo><mn>{layer}</mn><mo>)</mo></mrow>"
        return f"<msubsup>{base}{below}{above}</msubsup>" if layer else f"<msub>{base}{below}</msub>"
    if layer and mark:
        return f"<msubsup>{base}<mn>{layer}</mn><mo>⊤</mo></msubsup>"
    if layer:
        return f"<msub>{base}<mn>{layer}</mn></msub>"
    return f"<msup>{base}<mo>⊤</mo></msup>" if mark else base


# ------------------------------------------------------------------------------------------------------------------
# tables


_LINE = "border-top:1px solid color-mix(in srgb, currentColor 25%, transparent)"


def row(cells: Sequence[str], reason: str, *, is_wrong: bool = False) -> str:
    """One step: its cells, and the reason below them."""
    style = "color:#c62828;font-weight:bold" if is_wrong else ""
    of_cell = f"text-align:left;padding:.35em .8em .1em 0;white-space:nowrap;{_LINE}"
    line = "".join(f'<td style="{of_cell}">{cell}</td>' for cell in cells)
    of_reason = "text-align:left;padding:0 .8em .4em 1.5em;opacity:.75"
    below = f'<td colspan="{len(cells)}" style="{of_reason}">{escaped(reason)}</td>'
    return f'<tr style="{style};background:none">{line}</tr><tr style="background:none">{below}</tr>'


def row_across(text: str, *, is_heading: bool = False) -> str:
    """A line across the whole table."""
    tag, style = ("th", "padding:.9em 0 .2em") if is_heading else ("td", "padding:.4em 0")
    return (
        f'<tr style="background:none"><{tag} colspan="5" style="text-align:left;{style}">{escaped(text)}</{tag}></tr>'
    )


def page(title: str, drawing_of_it: str, header: Sequence[str], rows: Sequence[str], closing: Sequence[str]) -> str:
    """Put a table together with its title, its drawing and what is said below."""
    head = "".join(f'<th style="text-align:left;padding-right:.8em">{name}</th>' for name in header)
    below = "".join(f"<p>{escaped(line)}</p>" for line in closing)
    table = f'<table style="border-collapse:collapse"><tr style="background:none">{head}</tr>{"".join(rows)}</table>'
    return f'<div style="overflow-x:auto"><p>{escaped(title)}</p>{drawing_of_it}{table}{below}</div>'


# ------------------------------------------------------------------------------------------------------------------
# the network, drawn


_MOST_UNITS, _MOST_COLUMNS = 6, 7
_APART, _RADIUS, _COLUMN = 26, 8, 110


def drawing(layer_sizes: Sequence[int], activations: Sequence[str]) -> str:
    """The network as a picture: a column of units for each layer, few of them where there are many."""
    columns = _columns(layer_sizes)
    height = (_MOST_UNITS + 1) * _APART
    width = _COLUMN * len(columns)
    places = [_units(0 if layer is None else layer_sizes[layer], height) for layer in columns]
    parts = []
    for k, (here, there) in enumerate(zip(places[:-1], places[1:], strict=True)):
        x0, x1 = _middle(k) + _RADIUS, _middle(k + 1) - _RADIUS
        parts += [
            f'<line x1="{x0}" y1="{y0:g}" x2="{x1}" y2="{y1:g}" stroke="currentColor" stroke-opacity=".25"/>'
            for y0 in here for y1 in there
        ]  # fmt: skip
    for k, (layer, units) in enumerate(zip(columns, places, strict=True)):
        x = _middle(k)
        if layer is None:
            parts.append(_label(x, height / 2, "…"))
            continue
        parts += [
            f'<circle cx="{x}" cy="{y:g}" r="{_RADIUS}" fill="none" stroke="currentColor"/>' for y in units
        ]  # fmt: skip
        if layer_sizes[layer] > _MOST_UNITS:
            parts.append(_label(x, height - _APART / 2 + 6, "⋮"))
        parts.append(_label(x, height + 16, str(layer_sizes[layer])))
        parts.append(_label(x, height + 34, activations[layer - 1] if layer else "X"))
    return (
        f'<svg viewBox="0 0 {width} {height + 44}" width="{width}" style="max-width:100%;height:auto;display:block"'
        f' role="img" aria-label="network {"-".join(map(str, layer_sizes))}">{"".join(parts)}</svg>'
    )


def _columns(layer_sizes: Sequence[int]) -> list[int | None]:
    """The layers that are drawn; None stands for those left out."""
    count = len(layer_sizes)
    if count <= _MOST_COLUMNS:
        return list(range(count))
    return [0, 1, 2, None, count - 2, count - 1]


def _middle(column: int) -> int:
    return _COLUMN * column + _COLUMN // 2


def _units(count: int, height: float) -> list[float]:
    """Heights of the units that are drawn, in the middle of the picture."""
    shown = min(count, _MOST_UNITS)
    return [height / 2 + (k - (shown - 1) / 2) * _APART for k in range(shown)]


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="13" fill="currentColor">{escaped(text)}</text>'
