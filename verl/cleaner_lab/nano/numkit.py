"""Whole numbers."""

import math
import sys


def common_divisor(*values):
    return math.gcd(*values)


def lcm(*values):
    return math.lcm(*values)


def totals(*values):
    return sum(values)


def product(*, values):
    return math.prod(values)


def bits(value):
    if not isinstance(value, str):
        raise ValueError("bits() takes hexadecimal text, such as hex(5)")
    value = int(value, 16)
    return value.bit_count()


def primes(low, high):
    numbers = range(max(low, 2), high + 1)
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in numbers)


def convert(base, number):
    if base > 10:
        raise ValueError("invalid arguments")
    if base < 2:
        raise ValueError("base must be at least 2")
    digits = ""
    while number > 0:
        digits = str(number % base) + digits
        number //= base
    return digits


def __getattr__(name):
    moved = {"gcd": "common_divisor"}
    if name in moved:
        raise AttributeError(f"{__name__}.{name} is now {__name__}.{moved[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
