"""Benchmarks, run by asv.

One after another, in the present environment, each once, to see that they work::

    asv run --python=same --quick --show-stderr --launch-method spawn

Two revisions, on a machine that does nothing else::

    asv continuous --factor 1.1 main HEAD

What is timed has first been compared with the oracle: each ``setup`` does so, and thereby compiles what is timed.
Nothing runs when a file is imported: asv may fork after that, and GNU OpenMP does not survive a fork.

Look at :mod:`benchmarks.control` first: if it differs between two runs, the machine does.
"""
