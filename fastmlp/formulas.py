"""The index lines of the oracle as a reader meets them: with the numbers of layers, as matrices, and in words.

An index line stands once, above the code that computes it (``tests/test_index_lines.py`` executes them all). It is
read from there, so that what is printed cannot drift from what runs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

_INDEX_LINE = re.compile(r"^\s*# (\w+)((?:\[[\w,]+\])? = .*)$", re.MULTILINE)
_CELL = re.compile(r"(\w+)\[([\w,]+)\]")
_PRODUCT = re.compile(r"Σ_(\w) (\w+)\[(\w),(\w)\] (\w+)\[(\w),(\w)\]")
_SUM = re.compile(r"Σ_(\w) (\w+)\[(\w),(\w)\]")


@cache
def index_lines(function: Callable[..., Any]) -> dict[str, str]:
    """Read the index lines of a function of the oracle from its source, by the names on their left sides."""
    return {match[1]: match[1] + match[2] for match in _INDEX_LINE.finditer(inspect.getsource(function))}


def entering(layer: int) -> str:
    """Name of what enters a layer, the first being 1."""
    return "X" if layer == 1 else f"A{layer - 1}"


def numbered(line: str, layer: int) -> str:
    """Put the number of a layer to the names that each layer has anew; what enters it has a name already."""

    def name(match: re.Match[str]) -> str:
        d, letter = match[1], match[2]
        return d + (entering(layer) if letter == "X" else f"{letter}{layer}")

    return re.sub(r"\b(d?)([WbZAX])(?=\[)", name, line)


def of_mean(mean: str, of_sample: str) -> str:
    """Gradient of the mean over samples, ``loss = Σ_n s[n] L[n]``, from the gradient of one sample's ``L[n]``.

    By the rule for sums: what stands beside ``L[n]`` stands before its gradient.
    """
    share = mean.split("Σ_n ", 1)[1].removesuffix(" L[n]")
    left, right = of_sample.split(" = ", 1)
    is_simple = right.endswith(")") and re.fullmatch(r"[\w']+\([^()]*\)", right)
    return f"{left} = {share} {right if is_simple else f'({right})'}"


def left_of(line: str) -> tuple[str, tuple[str, ...]]:
    """Name and letters of the left side."""
    match = _CELL.match(line)
    return (match[1], tuple(match[2].split(","))) if match else (line.split(" = ", maxsplit=1)[0], ())


class Matrices(NamedTuple):
    """A formula without its letters, and why it looks so."""

    formula: str
    shapes: str
    reason: str


def in_matrices(line: str, ranges: Mapping[str, int]) -> Matrices:
    """Turn a line into matrices: a product sums the letter inside, and a transpose does nothing but bring it there.

    Parameters
    ----------
    line : str
        An index line.
    ranges : mapping
        How far each letter counts.
    """
    left, letters = left_of(line)
    right = line.split(" = ", 1)[1]
    shape = _size(letters, ranges)
    if match := _PRODUCT.match(right):
        summed, first, second = match[1], (match[2], match[3], match[4]), (match[5], match[6], match[7])
        formula, shapes, reason = _product(letters, summed, first, second, ranges)
        rest = right[match.end() :]
        reason += _of_bias(rest)
    elif match := _SUM.match(right):
        count = ranges[match[1]]
        formula, shapes = f"{match[2]} ones({count})", f"{_size((match[3], match[4]), ranges)}·({count})"
        reason = f"{match[1]} is summed, as by the product with a column of ones; {match[3]} stays"
        rest = right[match.end() :]
    elif "Σ" in right:
        return Matrices("", shape if letters else "", "")
    else:
        return Matrices(f"{left} = {_by_elements(right)}", f"{shape}, by elements", "")
    addends = re.findall(r" ([+-]) (.*?)(?= [+-] |$)", rest)
    formula += "".join(f" {sign} {_by_elements(addend)}" for sign, addend in addends)
    shapes += "".join(f" {sign} {_shape_of(addend, ranges)}" for sign, addend in addends)
    return Matrices(f"{left} = {formula}", f"{shape} = {shapes}", reason)


def _product(
    letters: tuple[str, ...],
    summed: str,
    first: tuple[str, str, str],
    second: tuple[str, str, str],
    ranges: Mapping[str, int],
) -> tuple[str, str, str]:
    """The factors in the order of the left side's letters, each turned where the summed letter is not inside."""
    if letters[0] not in first[1:]:
        first, second = second, first
    factors, shapes, stand, turned = [], [], [], []
    for (name, *own), inside in ((first, 1), (second, 0)):
        is_turned = own[inside] != summed
        factors.append(name + "ᵀ" * is_turned)
        shapes.append(_size(own, ranges) + "ᵀ" * is_turned)
        stand.append(f"[{','.join(own[::-1] if is_turned else own)}]")
        if is_turned:
            turned.append(f"{name}[{','.join(own)}] is transposed")
    change = f"so {' and '.join(turned)}" if turned else "and nothing is transposed"
    reason = f"The summed letter {summed} stands inside the product, {'·'.join(stand)}, {change};"
    return " ".join(factors), "·".join(shapes), f"{reason} {' and '.join(letters)} stay"


def _of_bias(rest: str) -> str:
    match = re.search(r"\+ (\w+)\[(\w)\]", rest)
    return f". {match[1]}[{match[2]}] has no n: every sample gets it" if match else ""


def _size(letters: Any, ranges: Mapping[str, int]) -> str:
    return f"({'×'.join(str(ranges[letter]) for letter in letters)})"


def _shape_of(term: str, ranges: Mapping[str, int]) -> str:
    match = _CELL.search(term)
    return _size(match[2].split(","), ranges) if match else "1"


def _by_elements(right: str) -> str:
    """A right side in which every cell has the letters of the left: products are taken element by element."""
    without = re.sub(r"\](?= [\w(])", "] ∘", right)
    return _CELL.sub(r"\1", without)
