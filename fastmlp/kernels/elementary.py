"""exp and log on vector registers.

Each is range reduction, a polynomial, and the exponent bits put back. The polynomials interpolate the exact function
at Chebyshev nodes, computed in 60 digits; their error is below a tenth of a unit in the last place. The errors of the
functions, in units in the last place (ULP), are measured by ``tests/test_accuracy.py``.
"""

from __future__ import annotations

from fastmlp.kernels.jit import tile_function
from fastmlp.kernels.simd import (
    by_precision,
    exponent,
    fma,
    maximum,
    minimum,
    nearest,
    polynomial,
    power_of_two,
    times_power_of_two,
)

_LOG2_E = 1.4426950408889634

# (exp(f) - 1 - f) / f²  for  |f| <= ln 2 / 2
_exp_tail = polynomial(
    single=[0.5, 0.16666577, 0.0416665546, 0.00836317905, 0.00139261836],
    double=[
        0.5, 0.16666666666666671, 0.04166666666666667, 0.0083333333333261351, 0.0013888888888883748,
        0.00019841269874820625, 2.4801587325547741e-5, 2.7557255400206424e-6, 2.7557273643110295e-7,
        2.5105217004720745e-8, 2.0914686968086877e-9,
    ],
)  # fmt: skip

# (atanh(t) / t - 1) / t²  as a function of t², for  |t| <= 1/3
_atanh_tail = polynomial(
    single=[0.333333337, 0.199998531, 0.142961824, 0.108532305, 0.116124609],
    double=[
        0.33333333333333333, 0.19999999999999761, 0.14285714285800132, 0.11111111099108056, 0.090909099496339795,
        0.076922719588765823, 0.066675898307578551, 0.058671325896882966, 0.054226455163899064,
        0.037458197303366328, 0.078157673537156122,
    ],
)  # fmt: skip


@tile_function
def _reduced(x, n):
    """``x - n ln 2``, with ``ln 2`` in two parts, the first of which is exact when multiplied by ``n``."""
    f = fma(n, by_precision(x, -0.693359375, -0.6931471805598903), x)
    return fma(n, by_precision(x, 0.00021219444005469057, -5.497923018708371e-14), f)


@tile_function
def exp_of_negative(x):
    """``exp(x)`` for ``x <= 0``: 0 beyond the range, subnormal results rounded like others, NaN stays NaN."""
    x = maximum(x, by_precision(x, -105.0, -747.0))
    n = nearest(x * _LOG2_E)
    f = _reduced(x, n)
    # exp(f) = 1 + (f + f² tail), the small terms first
    return times_power_of_two(1 + fma(f * f, _exp_tail(f), f), n)


@tile_function
def exp(x):
    """``exp(x)``: 0 and inf beyond the range, subnormal results rounded like others, NaN stays NaN."""
    return exp_of_negative(minimum(x, by_precision(x, 89.0, 710.0)))  # nothing in it needs x to be negative


@tile_function
def expm1(x):
    """``exp(x) - 1`` for ``x <= 0``, without cancellation near 0."""
    x = maximum(x, -40.0)  # below, exp(x) - 1 rounds to -1
    n = nearest(x * _LOG2_E)
    f = _reduced(x, n)
    power = power_of_two(n)
    # 2^n exp(f) - 1 = 2^n (f + f² tail) + (2^n - 1)
    return fma(power, fma(f * f, _exp_tail(f), f), power - 1)


@tile_function
def log1p(x):
    """``log(1 + x)`` for ``0 <= x <= 1``, without loss near 0: ``2 atanh(x / (2 + x))``."""
    t = x / (2 + x)
    return fma(2 * t * (t * t), _atanh_tail(t * t), 2 * t)


@tile_function
def log(x):
    """``log(x)`` for ``1 <= x <= 2^100``: the exponent's share, plus ``2 atanh((m - 1) / (m + 1))`` of the rest."""
    e = exponent(x)
    m = x * power_of_two(-e)
    t = (m - 1) / (m + 1)
    return fma(e, 0.6931471805599453, fma(2 * t * (t * t), _atanh_tail(t * t), 2 * t))
