"""Index lines: find them in a source, parse them, and execute them.

An index line is a comment that says in letters what the code below it computes::

    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    # loss = Σ_n s[n] L[n]

The letters are those of :mod:`fastmlp.oracle`: ``n`` counts samples, ``i`` inputs, ``j`` outputs, and ``k`` outputs
once more, where one letter is not enough. ``N`` is the number of samples. The grammar, in which ``{…}`` may be
repeated or absent and ``[…]`` may be absent::

    line   =  name [ "[" letters "]" ] "=" sum
    sum    =  [ "-" ] term { ( "+" | "-" ) term }
    term   =  total  |  power { power } [ total | "/" power ]
    total  =  "Σ_" letter term
    power  =  atom [ "^" number ]
    atom   =  number  |  "N"  |  name "[" letters "]"  |  function "(" sum { "," sum } ")"  |  "(" sum ")"

So what stands side by side is multiplied, a quotient ends its product, and ``Σ`` reaches to the next ``+`` or ``-``,
or to the end of the parenthesis that it is in. The functions are those of :data:`MATHEMATICS` and of :data:`GIVEN`,
such as ``f`` and ``f'``, the activation and its slope.

Every refusal is a ``ValueError`` that names the line and what is wrong with it.
"""

from __future__ import annotations

import ast
import io
import itertools
import math
import operator
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[..., float]

LETTERS = "nijk"
"""The letters that may count something."""

MATHEMATICS: dict[str, Function] = {
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "abs": abs,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "sign": lambda x: (x > 0) - (x < 0),
}
"""The functions whose meaning does not depend on where they stand."""

GIVEN = ["f", "f'", "f''", "cut", "pinball", "pinball'", "smooth"]
"""Functions whose meaning is told where the formula is executed: an activation and its slope; pieces of losses that
have a setting."""

ARGUMENTS = dict.fromkeys([*MATHEMATICS, *GIVEN], 1) | {"max": 2}
"""How many arguments each function has."""

OPERATIONS: dict[str, Function] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}


# ------------------------------------------------------------------------------------------------------------------
# finding


@dataclass(frozen=True)
class IndexLine:
    """An index line and where it stands."""

    module: str
    """The name that the caller gave to the source."""
    class_name: str
    """The innermost class around it, or nothing."""
    function: str
    """The innermost function around it, or nothing."""
    line_number: int
    text: str
    """The formula: the comment without its ``#``."""


_LOOKS_LIKE_AN_INDEX_LINE = re.compile(r"#\s*[^\W\d]\w*\s*(\[[^\]]*\]\s*=(?!=)|=(?!=).*Σ)")
_HAS_A_FORMULA = re.compile(r"Σ|\w\[[^\]]*\]\s*=(?!=)")


def find_index_lines(source: str, module: str = "") -> list[IndexLine]:
    """Find every comment line of the form ``# name[…] = …`` or ``# name = … Σ …``, whether it can be parsed or not."""
    tree = ast.parse(source)
    lines = []
    for number, comment, alone in _comments(source):
        if alone and _LOOKS_LIKE_AN_INDEX_LINE.match(comment):
            function = _outermost(tree, number, ast.FunctionDef)
            class_name = _outermost(tree, number, ast.ClassDef)
            lines.append(IndexLine(module, class_name, function, number, comment.lstrip("#").strip()))
    return lines


def find_stray_formulas(source: str) -> list[tuple[int, str]]:
    """Find every other comment with a formula in it: behind code, or after words. Returns line numbers and texts."""
    index_lines = {line.line_number for line in find_index_lines(source)}
    return [
        (number, comment)
        for number, comment, _ in _comments(source)
        if number not in index_lines and _HAS_A_FORMULA.search(comment)
    ]


def _comments(source: str) -> Iterator[tuple[int, str, bool]]:
    """Go through the comments: the line number and text of each, and whether it is alone on its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            yield number, token.string, not token.line[:column].strip()


def _outermost(tree: ast.Module, line_number: int, kind: type[ast.FunctionDef | ast.ClassDef]) -> str:
    """Return the name of the outermost function or class around a line, or nothing.

    A formula in a function within a function is that of the outer one: the strips of ``kernels/layer.py``.
    """
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, kind) and node.lineno <= line_number <= (node.end_lineno or 0)
    ]
    return min(around, key=lambda node: node.lineno).name if around else ""


# ------------------------------------------------------------------------------------------------------------------
# what a formula is made of


@dataclass(frozen=True)
class Number:
    """A number."""

    value: float


@dataclass(frozen=True)
class SampleCount:
    """``N``, the number of samples."""


@dataclass(frozen=True)
class Cell:
    """``array[letters]``."""

    array: str
    letters: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """``function(arguments)``."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True)
class Total:
    """``Σ_letter body``."""

    letter: str
    body: Expression


@dataclass(frozen=True)
class Operation:
    """``left sign right``, where the sign is one of those in :data:`OPERATIONS`; ``*`` is not written."""

    sign: str
    left: Expression
    right: Expression


Expression = Number | SampleCount | Cell | Call | Total | Operation


@dataclass(frozen=True)
class Formula:
    """A parsed index line: ``left[letters] = right``."""

    text: str
    left: str
    letters: tuple[str, ...]
    right: Expression


def _parts(expression: Expression) -> tuple[Expression, ...]:
    """List the expressions directly inside of an expression."""
    match expression:
        case Call(_, arguments):
            return arguments
        case Total(_, body):
            return (body,)
        case Operation(_, left, right):
            return (left, right)
    return ()


def _all_parts(expression: Expression) -> Iterator[Expression]:
    """Go through the expression and every expression inside of it."""
    yield expression
    for part in _parts(expression):
        yield from _all_parts(part)


# ------------------------------------------------------------------------------------------------------------------
# parsing


_TOKEN = re.compile(r"\s*(Σ_[A-Za-z]|[A-Za-z]+\d*'{0,2}|\d+(?:\.\d+)?|[][()+\-/^,=])")


def parse(text: str) -> Formula:
    """Parse an index line, and check that each of its letters is declared and used."""
    parser = _Parser(text)
    formula = parser.line()
    try:
        used = _check_letters(formula.right, frozenset(formula.letters))
    except ValueError as error:
        raise ValueError(f"{error}, in: {text}") from None
    for letter in formula.letters:
        if letter not in used:
            raise ValueError(f"the letter {letter} of the left side is missing on the right, in: {text}")
    return formula


class _Parser:
    """One method for each rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._split()
        self.position = 0

    def line(self) -> Formula:
        left = self.name()
        letters = self.letters() if self.next == "[" else ()
        self.expect("=")
        right = self.sum()
        if self.next:
            raise self.error(f"nothing was expected after the end, but {self.next!r} came")
        return Formula(self.text, left, letters, right)

    def sum(self) -> Expression:
        value = Operation("-", Number(0.0), self.term()) if self.accept("-") else self.term()
        while self.next in ("+", "-"):
            sign = self.take()
            value = Operation(sign, value, self.term())
        return value

    def term(self) -> Expression:
        if self.at_total():
            return self.total()
        value = self.power()
        while self.at_atom():
            value = Operation("*", value, self.power())
        if self.at_total():
            return Operation("*", value, self.total())
        if self.accept("/"):
            value = Operation("/", value, self.power())
            if self.at_atom() or self.at_total() or self.next == "/":
                raise self.error(f"a quotient ends its product, but {self.next!r} came: write parentheses")
        return value

    def total(self) -> Expression:
        letter = self.letter(prefix="Σ_")
        return Total(letter, self.term())

    def power(self) -> Expression:
        value = self.atom()
        if self.accept("^"):
            value = Operation("^", value, self.number())
        return value

    def atom(self) -> Expression:
        if self.accept("("):
            value = self.sum()
            self.expect(")")
            return value
        if self.next[:1].isdigit():
            return self.number()
        if self.accept("N"):
            return SampleCount()
        if self.following == "(":
            return self.call()
        name = self.name()
        if self.next != "[":
            raise self.error(f"{name} stands without letters")
        return Cell(name, self.letters())

    def call(self) -> Expression:
        function = self.take()
        if function not in ARGUMENTS:
            raise self.error(f"{function!r} is not a function that is known here")
        self.expect("(")
        arguments = [self.sum()]
        while self.accept(","):
            arguments.append(self.sum())
        self.expect(")")
        if len(arguments) != ARGUMENTS[function]:
            raise self.error(f"{function} has {ARGUMENTS[function]} argument(s), but {len(arguments)} came")
        return Call(function, tuple(arguments))

    def number(self) -> Number:
        if not self.next[:1].isdigit():
            raise self.error(f"a number was expected, but {self.next or 'the end'!r} came")
        return Number(float(self.take()))

    def name(self) -> str:
        if not self.next.rstrip("0123456789").isalpha() or self.next == "N" or self.next in ARGUMENTS:
            raise self.error(f"the name of an array was expected, but {self.next or 'the end'!r} came")
        return self.take()

    def letters(self) -> tuple[str, ...]:
        self.expect("[")
        letters = [self.letter()]
        while self.accept(","):
            letters.append(self.letter())
        self.expect("]")
        if len(set(letters)) < len(letters):
            raise self.error(f"a letter stands twice in [{','.join(letters)}]")
        return tuple(letters)

    def letter(self, prefix: str = "") -> str:
        letter = self.take().removeprefix(prefix)
        if len(letter) != 1 or letter not in LETTERS:
            raise self.error(f"{letter!r} is not a letter of the alphabet, which is {', '.join(LETTERS)}")
        return letter

    # the tokens

    def _split(self) -> list[str]:
        tokens, position, text = [], 0, self.text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error(f"{text[position:].strip()[0]!r} has no meaning here")
            tokens.append(match[1])
            position = match.end()
        return tokens

    @property
    def next(self) -> str:
        """The token that comes next, or nothing at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    @property
    def following(self) -> str:
        """The token after the next, or nothing at the end."""
        return self.tokens[self.position + 1] if self.position + 1 < len(self.tokens) else ""

    def at_total(self) -> bool:
        return self.next.startswith("Σ_")

    def at_atom(self) -> bool:
        return (self.next[:1].isalnum() and not self.at_total()) or self.next == "("

    def take(self) -> str:
        token = self.next
        if not token:
            raise self.error("it ends too early")
        self.position += 1
        return token

    def accept(self, token: str) -> bool:
        if self.next != token:
            return False
        self.position += 1
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(f"{token!r} was expected, but {self.next or 'the end'!r} came")

    def error(self, message: str) -> ValueError:
        return ValueError(f"{message}, in: {self.text}")


def _check_letters(expression: Expression, declared: frozenset[str]) -> set[str]:
    """Check that every letter is declared, on the left or by a Σ, and return those that are used."""
    if isinstance(expression, Cell):
        for letter in expression.letters:
            if letter not in declared:
                raise ValueError(f"the letter {letter} of {expression.array} is neither on the left nor summed")
        return set(expression.letters)
    if isinstance(expression, Total):
        if expression.letter in declared:
            raise ValueError(f"Σ_{expression.letter} sums a letter that has a meaning already")
        used = _check_letters(expression.body, declared | {expression.letter})
        if expression.letter not in used:
            raise ValueError(f"Σ_{expression.letter} sums a term without that letter")
        return used - {expression.letter}
    return set().union(*(_check_letters(part, declared) for part in _parts(expression)))


# ------------------------------------------------------------------------------------------------------------------
# executing


def execute(formula: Formula, arrays: Mapping[str, Array], functions: Mapping[str, Function] | None = None) -> Array:
    """Compute the left side of a formula, cell by cell.

    Parameters
    ----------
    formula : Formula
        What :func:`parse` returned.
    arrays : mapping of str to ndarray
        The arrays that the right side names. Their shapes give the range of each letter.
    functions : mapping of str to function, optional
        What ``f`` and ``f'`` mean, if the formula has them: functions from a number to a number.

    Returns
    -------
    ndarray
        With one axis for each letter of the left side; without any, an array of shape ``()``.
    """
    try:
        ranges = _letter_ranges(formula, arrays)
        known = MATHEMATICS | dict(functions or {})
        for part in _all_parts(formula.right):
            if isinstance(part, Call) and part.function not in known:
                raise ValueError(f"nothing was given for the function {part.function}")
            if isinstance(part, SampleCount) and "n" not in ranges:
                raise ValueError("the number of samples N is not known, because no array has the letter n")
    except ValueError as error:
        raise ValueError(f"{error}, in: {formula.text}") from None
    result = np.empty([ranges[letter] for letter in formula.letters])
    for cell in itertools.product(*(range(ranges[letter]) for letter in formula.letters)):
        at = dict(zip(formula.letters, cell, strict=True))
        result[cell] = _value(formula.right, at, ranges, arrays, known)
    return result


def _letter_ranges(formula: Formula, arrays: Mapping[str, Array]) -> dict[str, int]:
    """Return how far each letter counts, from the shapes of the arrays."""
    ranges: dict[str, int] = {}
    for part in _all_parts(formula.right):
        if not isinstance(part, Cell):
            continue
        name = f"{part.array}[{','.join(part.letters)}]"
        if part.array not in arrays:
            raise ValueError(f"nothing was given for the array {part.array}")
        shape = arrays[part.array].shape
        if len(shape) != len(part.letters):
            raise ValueError(f"{name} has {len(part.letters)} letter(s), but the array has {len(shape)} axes")
        for letter, size in zip(part.letters, shape, strict=True):
            if ranges.setdefault(letter, size) != size:
                raise ValueError(f"{letter} counts to {ranges[letter]}, but in {name} it counts to {size}")
    if "j" in ranges and "k" in ranges and ranges["j"] != ranges["k"]:
        raise ValueError(f"j and k both count outputs, but j to {ranges['j']} and k to {ranges['k']}")
    return ranges


def _value(
    expression: Expression,
    at: Mapping[str, int],
    ranges: Mapping[str, int],
    arrays: Mapping[str, Array],
    functions: Mapping[str, Function],
) -> float:
    """Return the value of an expression where the letters stand at ``at``."""

    def value(part: Expression, at: Mapping[str, int] = at) -> float:
        return _value(part, at, ranges, arrays, functions)

    match expression:
        case Number(number):
            return number
        case SampleCount():
            return ranges["n"]
        case Cell(array, letters):
            return float(arrays[array][tuple(at[letter] for letter in letters)])
        case Call(function, arguments):
            return float(functions[function](*(value(argument) for argument in arguments)))
        case Total(letter, body):
            total = 0.0
            for index in range(ranges[letter]):
                total += value(body, {**at, letter: index})
            return total
        case Operation(sign, left, right):
            return float(OPERATIONS[sign](value(left), value(right)))
    raise TypeError(f"{expression} is not an expression")
