"""The test of the tests: break the mathematics in one place at a time, and count how often the suite notices.

Run it as a script; pytest does not collect it::

    python tests/mutate.py                        # 150 mutants, drawn by seed 0
    python tests/mutate.py --seed 1 --count 300 --files oracle kernels/layer.py
    python tests/mutate.py --count 0 --list       # what could be drawn, without running it
    python tests/mutate.py --survivors 3f2a91c0   # run these again, by the names in the report

A *mutant* is the package with one small slip in ``fastmlp/oracle`` or ``fastmlp/kernels``: a sign turned, a transpose
or a term or a statement dropped, a bound moved by one, two arguments or two indices exchanged, a constant changed.
Slips are found on the syntax tree, so that nothing but the slip itself changes in the file. A mutant is *killed* if
the suite fails, crashes or hangs with it. One that survives is either equivalent (the slip changes nothing that
anybody could observe: :data:`EQUIVALENT` lists these, each with its reason) or a hole in the suite.

Not mutated: docstrings, comments and annotations; ``jit.py``, which holds no mathematics; and of ``simd.py`` what asks
for the host's features and what tells Numba the types.

Every mutant lives in a private copy of the checkout. The suite runs in up to two modes, the quicker first:
interpreted and compiled, or, for what is never interpreted, compiled without and with bounds checks. In each, the test
files that are about the mutated file come first.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import collections
import hashlib
import os
import queue
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GOAL = 0.95
"""The share of mutants that the suite is expected to kill."""

NOT_MUTATED_FILES = {"kernels/jit.py"}

NOT_MUTATED_FUNCTIONS = {
    # what asks for the host's features, and what tells Numba the types
    "kernels/simd.py": {
        "_host_features", "_is_arm", "_vector_bytes", "_machine_form", "_is_buffer", "_vector_among", "_rank1_typing",
        "_store_tile_typing", "_transpose_typing", "_arithmetic_typing", "_negation_typing", "_comparison_typing",
        "Vector", "Mask", "Tile", "_VectorModel", "_MaskModel", "_TileModel",
    },
}  # fmt: skip

NOT_MUTATED_NAMES = {"_FEATURES", "VECTOR_BYTES", "HAS_FMA", "ROWS", "Array", "__all__"}
"""Names of a module whose values are left alone: facts about the host, and types."""

_UNUSED = "one more that nothing reads"
_TUNING = "a size chosen for speed; the results are the same for any"

EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    ("kernels/columns.py", "module", "PLAN_COLUMNS = 24", "PLAN_COLUMNS = 25"): _UNUSED,
    ("kernels/samples.py", "module", "TILE_BLOCKS = 8", "TILE_BLOCKS = 9"): _TUNING,
    ("kernels/network.py", "module", "TILES_PER_THREAD = 2", "TILES_PER_THREAD = 3"): _TUNING,
    ("kernels/weights.py", "module", "TASKS_PER_THREAD = 4", "TASKS_PER_THREAD = 5"): _TUNING,
    ("kernels/samples.py", "module", "OUTPUTS_AT_ONCE = 64", "OUTPUTS_AT_ONCE = 65"): _TUNING,
    ("kernels/weights.py", "module", "STRIPS_AT_ONCE = 8", "STRIPS_AT_ONCE = 9"): _TUNING,
    ("kernels/weights.py", "module", "BLOCKS_AT_ONCE = 32", "BLOCKS_AT_ONCE = 33"): _TUNING,
    ("kernels/prediction.py", "module", "SAMPLES_ALONE = 3", "SAMPLES_ALONE = 4"): _TUNING,
    ("kernels/optimizers.py", "module", "N_SETTINGS = 8", "N_SETTINGS = 9"): _UNUSED,
}  # fmt: skip
"""Reviewed mutants that change nothing: (file, function, text before, text after), and why."""


# ------------------------------------------------------------------------------------------------------------------
# what a mutant is


@dataclass(frozen=True)
class Mutant:
    """One slip: the bytes from ``start`` to ``end`` of a file, replaced."""

    file: str
    """Relative to the package."""
    function: str
    line: int
    kind: str
    before: str
    """The lines that the slip touches, without indentation; behind them ``(2)`` at the second such slip, and so on."""
    after: str
    start: int
    end: int
    replacement: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is called in :data:`EQUIVALENT`."""
        return self.file, self.function, self.before, self.after

    @property
    def name(self) -> str:
        """A short name, the same as long as the text and its function are."""
        return hashlib.sha256("\0".join(self.key).encode()).hexdigest()[:8]

    @property
    def place(self) -> str:
        """Where it is, and what sort of slip."""
        return f"{self.file}:{self.line}, {self.function}: {self.kind}"

    def __str__(self) -> str:
        return f"{self.name}  {self.place}\n    {self.before}\n  → {self.after}"


# ------------------------------------------------------------------------------------------------------------------
# finding the slips

Piece = ast.expr | ast.stmt
"""What has a place in the source."""

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.MatMult: "@", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip

COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">"), ">": (">=", "<"), ">=": (">", "<"), "==": ("!=",), "!=": ("==",)}

# names that are easily confused; a slip is made only where both are known
CONFUSED = [
    # the plan, the settings and the codes
    ("INPUTS", "OUTPUTS"), ("WEIGHTS", "BIASES"), ("X_BY_FEATURES", "X"), ("X", "A"), ("A", "Z"), ("Z", "DZ"),
    ("A", "DZ"), ("SHARES", "SAMPLE_LOSSES"), ("TARGETS", "SHARES"), ("LEARNING_RATE", "FIRST_DECAY"),
    ("FIRST_DECAY", "SECOND_DECAY"), ("SECOND_DECAY", "EPSILON"), ("SIGMOID", "TANH"), ("RELU", "IDENTITY"),
    ("SGD", "ADAM"), ("SQUARED_ERROR", "BINARY_CROSS_ENTROPY"), ("X_NOT_FINITE", "Y_NOT_FINITE"),
    ("FINITE", "LOSS_NOT_FINITE"),
    # arrays
    ("W", "X"), ("Y", "A"), ("Y", "Z"), ("dZ", "dA"), ("dZ", "X"), ("dW", "db"), ("dX", "dZ"),
    ("parameters", "gradient"), ("parameter", "gradient"), ("gradient", "velocity"), ("targets", "labels"),
    ("first_moment", "second_moment"),
    # places and indices
    ("w", "b"), ("z", "a"), ("x", "d"), ("y", "z"), ("a", "y"), ("inputs", "outputs"), ("i", "j"), ("j", "k"),
    ("i", "k"), ("n", "i"), ("n", "j"), ("n", "p"), ("p0", "p1"), ("n0", "n1"), ("rows", "outputs"),
    ("rows", "inputs"), ("r", "rows"), ("r", "v"), ("layer", "below"), ("losses", "shares"), ("start", "stop"),
    ("first", "samples"), ("room", "features"), ("a_stride", "b_stride"), ("a_rows", "b_rows"),
    ("for_upper", "for_lower"), ("upper", "lower"),
    # numbers
    ("beta1", "beta2"), ("first_correction", "second_correction"), ("first_decay", "second_decay"), ("m", "v"),
    ("learning_rate", "momentum"), ("single", "double"), ("e", "f"), ("f", "n"), ("total", "target_total"),
    ("total", "expected"), ("logit", "target"),
]  # fmt: skip

# of functions whose first two arguments can be exchanged, or whose arguments say what a thing is
COMMUTATIVE = {"fma", "maximum", "minimum", "min", "max", "add", "mul", "fadd", "fmul", "multiply_add"}
NOT_SWAPPED = {"isinstance", "zip", "getattr", "intrinsic", "Constant", "Activation", "Loss", "VectorType"}

INSTRUCTIONS = {
    "fadd": "fsub", "fsub": "fadd", "add": "sub", "sub": "add", "fmul": "fdiv", "mul": "add", "shl": "ashr",
    "ashr": "shl",
}  # fmt: skip
"""LLVM's, which the machine forms emit by methods of these names."""

DROPPED_FUNCTIONS = {"abs", "absolute", "sqrt", "square_root", "nearest"}

ASK_FOR_DTYPE = {"block", "lanes", "fill", "fill_like", "zeros", "ones_like", "zeros_like"}
"""Of their first argument they use only the dtype or the size, in which names that could be confused agree."""

INDEX_WORDS = {
    "block", "lanes", "size", "whole_block", "room", "inputs", "outputs", "features", "ROWS", "VECTORS", "stride",
    "a_stride", "b_stride", "TILE_BLOCKS", "blocks", "batch_size",
}  # fmt: skip
"""A product with one of these is a place in memory: division would be refused as an index, so ``+`` is tried."""


class Finder(ast.NodeVisitor):
    """Goes through a file and collects its mutants."""

    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.line_starts = [0]
        for line in source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.functions: list[str] = []
        self.names: list[set[str]] = []
        self.arrays: set[str] = set()
        self.mutants: dict[tuple[int, int, str], Mutant] = {}
        self.seen: collections.Counter[tuple[str, str, str]] = collections.Counter()
        tree = ast.parse(source)
        self.names.append({*_bound_names(tree), *dir(builtins)})
        # the statements of the module: whether a slip is Python is tried on one of them, which is quicker
        self.outermost = [(self.first(statement), self.end(statement), ast.dump(statement)) for statement in tree.body]
        self.visit(tree)

    # places in the source

    def start(self, node: Piece) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def first(self, node: ast.stmt) -> int:
        """Where a statement starts with its decorators."""
        decorators = getattr(node, "decorator_list", [])
        return self.start(decorators[0]) - 1 if decorators else self.start(node)  # 1 is the @

    def end(self, node: Piece) -> int:
        return self.line_starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def text(self, node: Piece) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def operator(self, left: Piece, right: Piece, symbol: str) -> tuple[int, int]:
        """Where the operator between two operands stands, among parentheses, spaces and comments."""
        between = self.source[self.end(left) : self.start(right)]
        between = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), between)
        found = between.index(symbol.encode()) + self.end(left)
        return found, found + len(symbol)

    def add(self, kind: str, start: int, end: int, replacement: str) -> None:
        """Add a mutant, if it is Python and not the same program."""
        if (start, end, replacement) in self.mutants:
            return
        begin, stop, original = next(outer for outer in self.outermost if outer[0] <= start <= end <= outer[1])
        try:
            mutated = ast.parse(self.source[begin:start] + replacement.encode() + self.source[end:stop])
        except SyntaxError:
            return
        if ast.dump(mutated.body[0]) == original:
            return
        first = self.source.rindex(b"\n", 0, start) + 1 if b"\n" in self.source[:start] else 0
        last = self.source.index(b"\n", end)
        before = _one_line(self.source[first:last])
        after = _one_line(self.source[first:start] + replacement.encode() + self.source[end:last])
        line = self.source.count(b"\n", 0, start) + 1
        function = self.functions[-1] if self.functions else "module"
        self.seen[function, before, after] += 1
        if self.seen[function, before, after] > 1:
            before += f" ({self.seen[function, before, after]})"
        mutant = Mutant(self.file, function, line, kind, before, after, start, end, replacement)
        self.mutants[start, end, replacement] = mutant

    def replace(self, kind: str, node: Piece, replacement: str) -> None:
        self.add(kind, self.start(node), self.end(node), replacement)

    def swap(self, kind: str, one: Piece, two: Piece) -> None:
        """Exchange two pieces of source, the first of which stands first."""
        between = self.source[self.end(one) : self.start(two)].decode()
        self.add(kind, self.start(one), self.end(two), self.text(two) + between + self.text(one))

    # where to look

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in NOT_MUTATED_FUNCTIONS.get(self.file, ()):
            return
        outer = self.functions[-1] if self.functions else ""
        self.functions.append(f"{outer}.{_name_of(node)}" if outer else _name_of(node))
        self.names.append(_bound_names(node))
        self.arrays = _flattened_arrays(node)
        for statement in node.body:
            self.visit(statement)
        self.names.pop()
        self.functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if node.name in NOT_MUTATED_FUNCTIONS.get(self.file, ()):
            return
        self.functions.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.functions.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not _names(node.target) & NOT_MUTATED_NAMES:
            self.visit(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        """Nothing to break."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Nothing to break."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts are not mutated."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nor is what an error says."""

    # statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace("statement dropped", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace("statement dropped", node, "pass")
        symbol = OPERATORS[type(node.op)]
        start, end = self.operator(node.target, node.value, symbol + "=")
        self.add("sign", start, end, {"+": "-=", "-": "+="}.get(symbol, "="))
        self.add("accumulation dropped", start, end, "=")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        targets = set().union(*(_names(target) for target in node.targets))
        if targets & NOT_MUTATED_NAMES:
            return
        if any(isinstance(target, ast.Subscript) for target in node.targets) or targets & _names(node.value):
            self.replace("statement dropped", node, "pass")
        at_module_level = not self.functions
        unpacked_range = isinstance(node.value, ast.Call) and _called(node.value) == "range" and at_module_level
        if not unpacked_range:
            self.generic_visit(node)

    # expressions

    def visit_BinOp(self, node: ast.BinOp) -> None:
        symbol = OPERATORS.get(type(node.op))
        if symbol is None:
            self.generic_visit(node)
            return
        start, end = self.operator(node.left, node.right, symbol)
        left = self.source[self.start(node) : start].decode().rstrip()
        right = self.source[end : self.end(node)].decode().lstrip()
        is_index = bool(_names(node) & INDEX_WORDS)
        changed = {"+": "-", "-": "+", "*": "+" if is_index else "/", "/": "*", "//": "%", "%": "//", "**": "*"}
        if symbol in changed:
            self.add("operator", start, end, changed[symbol])
        if symbol in ("+", "-", "*", "/", "//"):
            self.replace("term dropped", node, left)
        if symbol in ("+", "*"):
            self.replace("term dropped", node, right)
        if symbol == "-" and not isinstance(node.left, ast.Constant):
            self.swap("operands swapped", node.left, node.right)
        if symbol == "@":
            self.swap("operands swapped", node.left, node.right)
            for operand in (node.left, node.right):
                if isinstance(operand, ast.Name):
                    self.replace("transpose added", operand, f"{operand.id}.T")
        # u * stride + k: the strides of u and k exchanged
        product, names = node.left, isinstance(node.right, ast.Name)
        if names and symbol == "+" and isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult):
            self.swap("strides swapped", product.left, node.right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not):
            kind = "sign" if isinstance(node.op, ast.USub) else "condition"
            self.add(kind, self.start(node), self.end(node), self.text(node.operand))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for comparison, right in zip(node.ops, node.comparators, strict=True):
            symbol = OPERATORS.get(type(comparison), "")
            for other in COMPARISONS.get(symbol, ()):
                self.add("comparison", *self.operator(left, right, symbol), other)
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        first, last = node.values[0], node.values[-1]
        self.add("condition dropped", self.start(node), self.end(node), self.text(first))
        self.add("condition dropped", self.start(node), self.end(node), self.text(last))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        yes, no = self.text(node.body), self.text(node.orelse)
        self.replace("branches swapped", node, f"{no} if {self.text(node.test)} else {yes}")
        self.replace("one branch always", node, f"({yes})")
        self.replace("one branch always", node, f"({no})")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "T":
            self.replace("transpose dropped", node, self.text(node.value))
        if node.attr != "size":  # all that is confused agrees in size
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return
        self.replace("constant", node, _another_number(node.value))

    def visit_List(self, node: ast.List) -> None:
        numbers = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, float)]
        if len(numbers) < 3 or len(numbers) < len(node.elts):
            self.generic_visit(node)
            return
        # the coefficients of a polynomial: the last ones matter least, so only a large change can be seen
        for position, (element, number) in enumerate(zip(node.elts, numbers, strict=True)):
            factor = 0.5 if position >= len(numbers) - 2 else 1.0001
            self.replace("coefficient", element, f"{number * factor:.17g}")

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load) or (node.id == "m" and self.file == "kernels/simd.py"):
            return  # there, m is the machine, and nothing else is like it
        known = set().union(*self.names)
        for one, two in CONFUSED:
            for name, other in ((one, two), (two, one)):
                if node.id == name and other in known and self.in_same_scope(name, other):
                    self.replace("name", node, other)

    def in_same_scope(self, one: str, two: str) -> bool:
        """Whether both names are bound by the same function, or both by the module."""
        here = next((names for names in reversed(self.names) if one in names), set())
        return two in here

    def visit_Call(self, node: ast.Call) -> None:
        called = _called(node)
        if called in ("range", "prange"):
            self.mutate_range(node)
        if called in ("min", "max"):
            for argument in node.args:
                self.replace("one bound only", node, self.text(argument))
        if called in ("where", "select") and len(node.args) == 3:
            self.swap("branches swapped", node.args[1], node.args[2])
        elif called not in NOT_SWAPPED and called not in ("range", "prange"):
            self.mutate_arguments(node, called)
        if called in ("icmp_signed", "fcmp_ordered") and isinstance(node.args[0], ast.Constant):
            for other in COMPARISONS[str(node.args[0].value)]:
                self.replace("comparison", node.args[0], f'"{other}"')
        if called in DROPPED_FUNCTIONS and len(node.args) == 1:
            self.replace("function dropped", node, self.text(node.args[0]))
        if called in INSTRUCTIONS and isinstance(node.func, ast.Attribute):
            end = self.end(node.func)
            self.add("operator", end - len(called), end, INSTRUCTIONS[called])
        for keyword in node.keywords:
            if keyword.arg == "axis" and isinstance(keyword.value, ast.Constant):
                self.replace("axis", keyword.value, str(1 - int(keyword.value.value)))  # type: ignore[arg-type]
        # the called function is left alone, and so is the axis
        if isinstance(node.func, ast.Attribute):
            self.visit(node.func.value)
        of_dtype = called in ASK_FOR_DTYPE and bool(node.args) and isinstance(node.args[0], ast.Name)
        positional = node.args[1:] if of_dtype else node.args
        for argument in [*positional, *(keyword.value for keyword in node.keywords if keyword.arg != "axis")]:
            if called != "reshape" or self.text(argument) != "-1":  # any negative number means the same there
                self.visit(argument)

    def mutate_range(self, node: ast.Call) -> None:
        """Begin late, end early, or end late."""
        texts = [self.text(argument) for argument in node.args]
        stop = node.args[0] if len(texts) == 1 else node.args[1]
        by_vectors = len(texts) == 3 and ("step" in texts[2] or "lanes" in texts[2])
        by = texts[2] if by_vectors else "1"
        backwards = len(texts) == 3 and texts[2].startswith("-")
        if len(texts) == 1:
            self.replace("begins late", stop, f"1, {texts[0]}")
        elif texts[0] == "0":
            self.replace("begins late", node.args[0], by)
        else:
            self.replace("begins late", node.args[0], f"{texts[0]} {'-' if backwards else '+'} {by}")
        stop_text = self.text(stop)
        self.replace("ends early", stop, f"{stop_text} {'+' if backwards else '-'} {by}")
        self.replace("ends late", stop, f"{stop_text} {'-' if backwards else '+'} {by}")

    def mutate_arguments(self, node: ast.Call, called: str) -> None:
        """Exchange each argument with the next of its kind."""
        for position, one in enumerate(node.args):
            if called in COMMUTATIVE and position == 0:
                continue
            for two in node.args[position + 1 :]:
                if self.kind(one) and self.kind(one) == self.kind(two):
                    self.swap("arguments swapped", one, two)
                    break

    def kind(self, argument: ast.expr) -> str:
        """Tell what sort of thing an argument is: an array, a number, or nothing that is exchanged."""
        if isinstance(argument, ast.Name):
            name = argument.id
            known = name in _ARRAYS or name in self.arrays or name[0].isupper() or re.fullmatch(r"d[A-Z]", name)
            return "array" if known else "" if name in _CODES else "number"
        if isinstance(argument, ast.BinOp | ast.Subscript):
            return "number"
        return _called(argument) if isinstance(argument, ast.Call) else ""

    def visit_Dict(self, node: ast.Dict) -> None:
        for value in node.values:
            if isinstance(value, ast.Constant) and value.value in COMPARISONS:
                self.replace("comparison", value, f'"{COMPARISONS[str(value.value)][0]}"')
            if isinstance(value, ast.Constant) and value.value in ("fadd", "fmul"):
                self.replace("operator", value, {"fadd": '"fsub"', "fmul": '"fdiv"'}[str(value.value)])
            self.visit(value)


def _one_line(source: bytes) -> str:
    """Lines as one, without comments."""
    return " ".join(re.sub(r"  #.*", "", source.decode()).split())


def _names(node: ast.AST) -> set[str]:
    """Every name in an expression."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _bound_names(scope: ast.Module | ast.FunctionDef) -> set[str]:
    """Names that a function, or the module itself, gives a value to."""
    found: set[str] = set()
    if isinstance(scope, ast.FunctionDef):
        arguments = scope.args
        found |= {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return found


def _called(node: ast.Call) -> str:
    """Return the last part of the called function's name."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _name_of(node: ast.FunctionDef) -> str:
    """Return the function's name; of a machine form, the name of its interpreted twin."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and _called(decorator) == "_machine_form":
            return f"{ast.unparse(decorator.args[0])} (machine form)"
    return node.name


_ARRAYS = {
    "weights", "biases", "gradient", "parameters", "arena", "plan", "memory", "data", "targets", "labels", "order",
    "report", "output", "settings", "parameter", "velocity", "first_moment", "second_moment", "d_inputs", "d_weights",
}  # fmt: skip


_CODES = {"activation", "code", "optimizer"}


def _flattened_arrays(function: ast.FunctionDef) -> set[str]:
    """Local names of arrays: what is assigned from ``….reshape(…)``."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and "reshape" in ast.unparse(node.value):
            found |= set().union(*(_names(target) for target in node.targets))
    return found


def _another_number(value: float) -> str:
    """Return a number that is off, but of the same sort."""
    if isinstance(value, int):
        # one more; of bit patterns, a change that is not lost among the last bits
        return str(value + 1) if value < 1 << 20 else hex(value + (value >> 7))
    special = {0.0: "1.0", 0.5: "1.0", 1.0: "2.0"}
    return special.get(value) or f"{value * (0.5 if abs(value) > 10 else 1.01):.17g}"


def find_mutants(package: Path, files: Sequence[str]) -> list[Mutant]:
    """All mutants of these files or folders of the package, in the order of the source."""
    found = []
    for path in sorted([*(package / "oracle").glob("*.py"), *(package / "kernels").glob("*.py")]):
        file = path.relative_to(package).as_posix()
        wanted = not files or any(file == f or file.startswith(f.rstrip("/") + "/") or path.name == f for f in files)
        if wanted and file not in NOT_MUTATED_FILES:
            found += sorted(Finder(file, path.read_bytes()).mutants.values(), key=lambda m: (m.start, m.end))
    return found


def draw(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Draw mutants: of each file in proportion (but at least 3), and there of each function in turn."""
    if count <= 0 or count >= len(mutants):
        return list(mutants)
    generator = random.Random(seed)  # noqa: S311 (not a secret)
    drawn = []
    by_file = _grouped(mutants, "file")
    for group in by_file.values():
        share = max(3, round(count * len(group) / len(mutants)))
        functions = list(_grouped(group, "function").values())
        generator.shuffle(functions)
        for function in functions:
            generator.shuffle(function)
        taken: list[Mutant] = []
        while len(taken) < min(share, len(group)):
            taken += [function.pop() for function in functions if function]
        drawn += taken[:share]
    return sorted(drawn, key=lambda m: (m.file, m.start, m.end, m.replacement))


def _grouped(mutants: Sequence[Mutant], attribute: str) -> dict[str, list[Mutant]]:
    groups: dict[str, list[Mutant]] = collections.defaultdict(list)
    for mutant in mutants:
        groups[getattr(mutant, attribute)].append(mutant)
    return groups


# ------------------------------------------------------------------------------------------------------------------
# running the suite

MODES = {
    "interpreted": {"NUMBA_DISABLE_JIT": "1"},
    "compiled": {},
    "checked": {"NUMBA_BOUNDSCHECK": "1"},
}

FIRST_TESTS = {
    "oracle": ["test_oracle", "test_index_lines", "test_twins", "test_verify"],
    "kernels/simd.py": ["test_simd", "test_index_lines", "test_twins", "test_layout", "test_accuracy", "test_kernels"],
    "kernels/elementary.py": ["test_accuracy", "test_twins"],
    "kernels/layout.py": ["test_layout", "test_twins", "test_kernels"],
    **{f"kernels/{file}.py": ["test_kernels", "test_mlp"] for file in ("network", "prediction", "samples", "weights")},
    "kernels": ["test_twins", "test_index_lines", "test_accuracy", "test_kernels"],
}
"""The test files to begin with, by mutated file or folder; all others follow."""

LEFT_OUT = {"test_cache", "test_concurrency", "test_readme"}
"""Slow, and not about the mathematics; ``--tests`` can ask for them."""

MEMORY = 12 << 30
"""Bytes of address space that a run may take: a wrong size must not take the machine down."""


def is_machine_form(mutant: Mutant) -> bool:
    """Whether it is never run interpreted: it is a machine form, or a helper of theirs."""
    name = mutant.function
    helper = name.startswith("_") and name != "_check"
    return mutant.file == "kernels/simd.py" and (helper or name.endswith("(machine form)"))


def modes_for(mutant: Mutant) -> list[str]:
    """Return the modes to run the suite in, the quickest first."""
    if mutant.file.startswith("oracle/"):
        return ["compiled"]  # from a warm cache: the kernels have not changed
    if is_machine_form(mutant):
        return ["compiled", "checked"]
    return ["interpreted", "compiled"]  # the interpreted twins check every place that they touch


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    killed: bool
    how: str
    """The mode and the reason."""
    seconds: float


class Copy:
    """A private copy of the checkout, in which one mutant at a time is tried."""

    def __init__(self, directory: Path, tests: Sequence[str], pytest_arguments: Sequence[str]) -> None:
        self.directory = directory
        self.pytest_arguments = pytest_arguments
        unwanted = shutil.ignore_patterns(
            ".git", "__pycache__", ".*_cache", ".hypothesis", ".asv", ".venv", "build", "dist", "*.egg-info"
        )
        shutil.copytree(ROOT, directory / "copy", ignore=unwanted)
        found = sorted((directory / "copy" / "tests").glob("test_*.py"))
        wanted = {Path(test).stem for test in tests} or {path.stem for path in found} - LEFT_OUT
        self.tests = [path.name for path in found if path.stem in wanted]
        self.timeouts: dict[str, float] = {}

    def baseline(self, modes: Sequence[str]) -> None:
        """Run the suite as it is, in these modes: it must pass, and it says how long a mutant may take."""
        for mode in modes:
            begun = time.monotonic()
            code, output = self.run(mode, self.tests, "warm", timeout=3600)
            if code != 0:
                raise SystemExit(f"the {mode} suite fails before anything is mutated:\n{output[-3000:]}")
            self.timeouts[mode] = 60 + 4 * (time.monotonic() - begun)

    def attempt(self, mutant: Mutant) -> Outcome:
        """Run the suite with this mutant, until it is killed."""
        begun = time.monotonic()
        path = self.directory / "copy" / "fastmlp" / mutant.file
        original, times = path.read_bytes(), path.stat()
        path.write_bytes(original[: mutant.start] + mutant.replacement.encode() + original[mutant.end :])
        cache = "warm" if mutant.file.startswith("oracle/") else "cold"
        outcome = (False, "survived " + ", ".join(modes_for(mutant)))
        try:
            for mode in modes_for(mutant):
                code, output = self.run(mode, self.ordered_tests(mutant.file), cache, self.timeouts[mode])
                if code in (4, 5):
                    raise SystemExit(f"pytest could not be run:\n{output[-3000:]}")
                if code != 0:
                    outcome = (True, f"{mode}: {_reason(code, output)}")
                    break
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            shutil.rmtree(self.directory / "cold", ignore_errors=True)
        return Outcome(*outcome, time.monotonic() - begun)

    def ordered_tests(self, file: str) -> list[str]:
        """Return the test files, those about the mutated file first."""
        first = FIRST_TESTS.get(file) or FIRST_TESTS[file.split("/", maxsplit=1)[0]]
        ranks = {f"{name}.py": rank for rank, name in enumerate([*first, *FIRST_TESTS["kernels"]][::-1], 1)}
        return sorted(self.tests, key=lambda name: (-ranks.get(name, 0), name))

    def run(self, mode: str, tests: Sequence[str], cache: str, timeout: float) -> tuple[int | None, str]:
        """Run pytest. Returns its exit code, or None if it had to be stopped, and what it printed."""
        copy = self.directory / "copy"
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK", "FASTMLP_CACHE", "PYTEST_ADDOPTS")
        }
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")  # beside other busy processes, its threads wait for ever
        environment |= MODES[mode]
        environment |= {
            "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(self.directory / cache),
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
        process = subprocess.Popen(
            [*command, *self.pytest_arguments, *(f"tests/{name}" for name in tests)],
            cwd=copy, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        _limit_memory(process.pid)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output
        finally:
            shutil.rmtree(copy / ".hypothesis", ignore_errors=True)
        return process.returncode, output


def _limit_memory(process: int) -> None:
    """Limit what a process may take, where the system lets us."""
    try:
        import resource  # noqa: PLC0415 (not on every system)

        resource.prlimit(process, resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, AttributeError, OSError):
        return


def _reason(code: int | None, output: str) -> str:
    """Which test failed, or how the run ended."""
    if code is None:
        return "it hung"
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?([^\s\[]+)", output, re.MULTILINE)
    if failed:
        return failed[1]
    return f"it crashed (signal {-code})" if code < 0 else f"exit code {code}"


# ------------------------------------------------------------------------------------------------------------------
# the report


def run_mutants(
    mutants: Sequence[Mutant], jobs: int, tests: Sequence[str], pytest_arguments: Sequence[str]
) -> dict[Mutant, Outcome]:
    """Try every mutant, ``jobs`` at a time."""
    outcomes: dict[Mutant, Outcome] = {}
    modes = [mode for mode in MODES if any(mode in modes_for(mutant) for mutant in mutants)]
    with tempfile.TemporaryDirectory(prefix="mutate-") as room, ThreadPoolExecutor(jobs) as pool:
        idle: queue.Queue[Copy] = queue.Queue()
        copies = [Copy(Path(room) / str(job), tests, pytest_arguments) for job in range(jobs)]
        if not set(mutants) <= set(find_mutants(Path(room) / "0" / "copy" / "fastmlp", [])):
            raise SystemExit("the sources have changed while they were copied; run it again")
        say(f"test files: {', '.join(copies[0].tests)}")
        for copy, ready in [(copy, pool.submit(copy.baseline, modes)) for copy in copies]:
            ready.result()
            idle.put(copy)
        say("the suite passes as it is, in every mode")

        def attempt(mutant: Mutant) -> Outcome:
            copy = idle.get()
            try:
                return copy.attempt(mutant)
            finally:
                idle.put(copy)

        waiting = {pool.submit(attempt, mutant): mutant for mutant in mutants}
        for done in as_completed(waiting):
            mutant, outcome = waiting[done], done.result()
            outcomes[mutant] = outcome
            verdict = "killed" if outcome.killed else "SURVIVED"
            done_so_far = f"{len(outcomes)}/{len(mutants)}"
            say(f"{done_so_far} {mutant.name} {verdict} in {outcome.seconds:.0f} s  {mutant.place}; {outcome.how}")
    return outcomes


def say(text: str) -> None:
    """Tell how far it is, apart from the report."""
    print(text, file=sys.stderr, flush=True)


def table(outcomes: dict[Mutant, Outcome]) -> Iterator[str]:
    """One line per file."""
    yield f"{'file':<26}{'mutants':>9}{'killed':>9}{'survived':>10}{'share':>9}"
    for file, group in sorted(_grouped(list(outcomes), "file").items()):
        killed = sum(outcomes[mutant].killed for mutant in group)
        yield f"{file:<26}{len(group):>9}{killed:>9}{len(group) - killed:>10}{killed / len(group):>9.1%}"


def main() -> int:
    """Draw, run and report. Returns 1 if fewer are killed than :data:`GOAL`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--count", type=int, default=150, help="how many to draw; 0 takes all")
    parser.add_argument("--files", nargs="*", default=[], help="files or folders: oracle, kernels/layer.py, …")
    parser.add_argument("--tests", nargs="*", default=[], help="only these test files")
    parser.add_argument("--pytest", default="", help="further arguments of pytest, in one string")
    parser.add_argument("--jobs", type=int, default=2, help="how many suites run at once")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--survivors", nargs="*", default=[], help="run only these, by name")
    options = parser.parse_args()

    everything = find_mutants(ROOT / "fastmlp", options.files)
    drawn = draw(everything, options.count, options.seed)
    if options.survivors:
        drawn = [mutant for mutant in everything if mutant.name in options.survivors]
    equivalent = [mutant for mutant in drawn if mutant.key in EQUIVALENT]
    mutants = [mutant for mutant in drawn if mutant.key not in EQUIVALENT]
    if options.list:
        for mutant in drawn:
            print(mutant, "\n    (equivalent)" if mutant.key in EQUIVALENT else "")
        print(f"{len(drawn)} of {len(everything)} mutants")
        return 0

    outcomes = run_mutants(mutants, options.jobs, options.tests, shlex.split(options.pytest))
    print(*table(outcomes), sep="\n")
    survivors = [mutant for mutant in mutants if not outcomes[mutant].killed]
    for title, group in (("survived", survivors), ("equivalent, not counted", equivalent)):
        print(f"\n{title}: {len(group)}")
        for mutant in group:
            print(mutant)
            if mutant.key in EQUIVALENT:
                print(f"    {EQUIVALENT[mutant.key]}")
    outdated = set() if options.files else set(EQUIVALENT) - {mutant.key for mutant in everything}
    for key in sorted(outdated):
        print(f"\nlisted as equivalent, but not found any more: {key}")
    killed = len(mutants) - len(survivors)
    share = killed / len(mutants) if mutants else 1.0
    print(f"\nkilled {killed} of {len(mutants)} ({share:.1%})")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
