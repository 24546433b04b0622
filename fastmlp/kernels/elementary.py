"""exp, log and the normal distribution on vector registers; and what depends on a sign.

Exponentials and logarithms are range reduction, a polynomial, and the exponent bits put back. The polynomials
interpolate the exact function at Chebyshev nodes, computed in 60 digits; their error is below a tenth of a unit in the
last place (a quarter for the normal distribution in float32). The errors of the functions, in units in the last place
(ULP), are measured by ``tests/test_accuracy.py``.
"""

from __future__ import annotations

from fastmlp.kernels.jit import tile_function
from fastmlp.kernels.simd import (
    absolute,
    by_precision,
    exponent,
    fill_like,
    fma,
    maximum,
    minimum,
    nearest,
    polynomial,
    power_of_two,
    times_power_of_two,
    where,
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

# exp(x²/2) Φ(-x) / t  as a function of t - 1, with  t = 8 / (4 + x)  for  x >= 0
_normal_tail = polynomial(
    single=[
        0.0944106423, 0.0759870743, 0.0483920854, 0.0233154133, 0.00755077319, 0.000940675302, -0.000440121603,
        -0.000195860211, 2.36245649e-5, 1.56947982e-5,
    ],
    double=[
        0.094410641301968935, 0.075987080246486471, 0.048392175092777417, 0.023315232244961674,
        0.0075495718613345818, 0.0009425236207031271, -0.00043496154522550745, -0.00020385230531007357,
        1.6668031222948035e-5, 2.888685301874638e-5, -2.3848042574060882e-7, -4.3930268710322255e-6,
        8.9366354068480011e-8, 7.3987664826925552e-7, -7.8123837442122315e-8, -1.2750891740710581e-7,
        3.2942888200855568e-8, 1.9327460239027398e-8, -9.5433910543013576e-9, -1.8552987590939179e-9,
        1.7470660194938527e-9, 1.2691196470620225e-12, -1.2488280200029095e-10,
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
    """``exp(x)``: 0 and inf beyond the range, subnormal results rounded like others, NaN stays NaN.

    Two operations more than :func:`exp_of_negative`, and a fifth of a ULP closer: ``1 + f`` keeps what it rounds off.
    """
    x = maximum(minimum(x, by_precision(x, 89.0, 710.0)), by_precision(x, -105.0, -747.0))
    n = nearest(x * _LOG2_E)
    f = _reduced(x, n)
    one_and_f = 1 + f
    rest = f - (one_and_f - 1)
    return times_power_of_two(one_and_f + fma(f * f, _exp_tail(f), rest), n)


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


@tile_function
def exp_of_half_square(x):
    """``exp(-x²/2)``: what ``x * x`` rounds off is put back, for it counts where ``x²`` is large."""
    square = x * x
    rest = fma(x, x, -square)
    e = exp_of_negative(square * -0.5)
    return where(square < by_precision(x, 1e30, 1e300), fma(e, rest * -0.5, e), e)  # beyond, the rest is no number


@tile_function
def normal_density(x):
    """``exp(-x²/2) / √(2 π)``."""
    return exp_of_half_square(x) * 0.3989422804014327


@tile_function
def normal_distribution(x):
    """``Φ(x)``, the share of the normal distribution below ``x``, without loss in its lower tail."""
    size = absolute(x)
    t = 8 / (4 + size)
    below = exp_of_half_square(x) * (t * _normal_tail(t - 1))
    return where(x > 0, 1 - below, below)


@tile_function
def by_sign(x, above, below):
    """``above`` where ``x > 0``, ``below`` where ``x < 0``, else 0."""
    return where(x > 0, fill_like(x, above), where(x < 0, fill_like(x, below), 0.0))
