"""How the pages are built: ``sphinx-build -W --keep-going -b html docs OUT``.

The code cells of the pages are run while they are built, and an error in one of them fails the build. Nothing is
fetched: formulas become MathML, which browsers draw by themselves, so the pages can be read without a network.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

import fastmlp

_LOGGER = logging.getLogger(__name__)

_EXAMPLES = Path(__file__).parent.parent / "examples"

project = "fastmlp"
author = "the fastmlp developers"
copyright = f"MIT licence, {author}"
version = release = fastmlp.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
smartquotes = False  # what stands in quotes is Python, mostly
exclude_patterns = ["_build"]
suppress_warnings = [
    "ref.citation",  # a docstring's references are its sources: not each is cited by its number
]

# ---------------------------------------------------------------------------------------------------------------------
# pages: Markdown, in which code cells are run

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # a page's files lie in a folder that is removed
nb_execution_raise_on_error = False  # a failing cell is a warning, with its traceback: -W makes an error of it
nb_execution_show_tb = True
nb_execution_timeout = 120  # seconds of one cell
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # warnings of what a cell calls are warnings of the build

# ---------------------------------------------------------------------------------------------------------------------
# docstrings

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as they are written
autodoc_typehints = "none"  # types are in the docstrings' sections
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False  # api.md says which members are shown
add_module_names = False

# ---------------------------------------------------------------------------------------------------------------------
# the look

html_theme = "furo"
html_title = f"fastmlp {version}"
html_static_path = ["static"]
html_css_files = ["fastmlp.css"]
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"


def _mathml(node: nodes.math | nodes.math_block, *, as_block: bool) -> str:
    """Return a formula as MathML; as it was written, with a warning, if it is not understood."""
    # in MathML these are one thing
    formula = re.sub(r"\\(begin|end){(?:align|gather|split)\*?}", r"\\\1{aligned}", node.astext())
    try:
        return str(tex2mathml(formula, as_block=as_block))
    except MathError as error:
        _LOGGER.warning("formula not understood: %s", error, location=node)
        return html.escape(node.astext())


def _visit_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _visit_math_block(translator: Any, node: nodes.math_block) -> None:
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    translator.body.append(translator.starttag(node, "div", number, CLASS="math"))
    translator.body.append(_mathml(node, as_block=True) + "</div>")
    raise nodes.SkipNode


def _tidy(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Make rubrics of a module's headings, which a page of several modules would have several times.

    An author's initial in front of a reference would begin a list. Where a reference is cited, numpydoc's long name
    for it would be shown: its number takes that place.
    """
    for k, line in enumerate(lines):
        if what == "module" and line and lines[k + 1 : k + 2] == ["-" * len(line)]:
            lines[k : k + 2] = [f".. rubric:: {line}", ""]
        else:
            numbered = re.sub(r"\[R[0-9a-f]+-(\d+)\]_", r"[\1]", line)
            lines[k] = re.sub(r"^(\s*\.\. \[.+?\] [A-Z])\. ", r"\1\\. ", numbered)


def _skip(_app: Sphinx, _what: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out the fields of named tuples of which nothing is said."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def _example(app: Sphinx, page: str, content: list[str]) -> None:
    """Put a notebook of the folder ``examples`` in the place of the page that stands for it here.

    Sphinx reads pages in its own folder only, and what a page includes is not run.
    """
    folder, _, name = page.rpartition("/")
    if folder == "examples":
        notebook = _EXAMPLES / f"{name}.md"
        app.env.note_dependency(notebook)
        content[0] = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")


def _example_sources(app: Sphinx, _error: Exception | None) -> None:
    """Show the notebook, too, where a reader asks for the source of its page."""
    for shown in Path(app.outdir, "_sources", "examples").glob("*.md.txt"):
        shown.write_bytes((_EXAMPLES / shown.stem).read_bytes())


def _compile(_app: Sphinx) -> None:
    """Compile before the pages are run: none of them is about that."""
    for dtype in ("float64", "float32"):
        fastmlp.warm_up(dtype, derivatives=True)


def setup(app: Sphinx) -> None:
    """Add the renderer of formulas, and what is done before."""
    app.connect("builder-inited", _compile)
    app.connect("source-read", _example)
    app.connect("build-finished", _example_sources)
    app.connect("autodoc-process-docstring", _tidy)
    app.connect("autodoc-skip-member", _skip)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
