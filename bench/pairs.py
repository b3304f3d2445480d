"""What was measured in pairs, one right after the other, and how far the difference may be off.

What the machine does else changes from minute to minute by more than what is looked for; both of a pair meet the same.
"""

import math
import statistics

from bench.medians import in_95_of_100

# Of the pairs, so many per cent with the highest ratio do not count, and as many with the lowest:
# in them something happened.
TRIM_PERCENT = 10


def cost(pairs):
    """By how many per cent the second is higher: the trimmed mean of the logarithms of the ratios."""
    logs = sorted(math.log(after / before) for before, after in pairs)
    out = len(logs) * TRIM_PERCENT // 100
    return (math.exp(statistics.fmean(logs[out : len(logs) - out])) - 1) * 100


def interval(pairs):
    """Between what the cost is in 95 of 100 draws."""
    return in_95_of_100(lambda rng: cost(rng.choices(pairs, k=len(pairs))))


def times(pairs):
    """How many times the first the second is, and between what that is in 95 of 100 draws."""
    return tuple(1 + more / 100 for more in (cost(pairs), *interval(pairs)))
