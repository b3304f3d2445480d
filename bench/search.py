"""The highest rate that holds."""

# The answer is known to this share of itself.
PRECISION = 0.06
# By how much a rate that holds is raised while no rate is known that does not.
RAISE = 1.5


def highest(first, holds, least=100):
    """The highest rate for which `holds(rate)` is true, or 0; rates are whole hundreds.

    It takes for granted that where a rate does not hold, no higher one does.
    """
    low, high, rate = 0, None, first
    while rate >= least:
        if holds(rate):
            low = rate
        else:
            high = rate
        if high is None:
            rate = hundreds(low * RAISE)
        elif high - low <= max(100, low * PRECISION):
            break
        elif low == 0:
            rate = hundreds(high / RAISE)
        else:
            rate = hundreds((low + high) / 2)
            if rate in (low, high):
                break
    return low


def hundreds(rate):
    """Rounded to a whole hundred."""
    return round(rate / 100) * 100
