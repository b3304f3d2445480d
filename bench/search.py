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


def mostly(holds, tries=3):
    """What most of so many tries say of a rate, and no more tries than that takes: a stall of the machine, or a quick moment of
    it, is not of the rate."""

    def majority(rate):
        said = []
        while max(said.count(True), said.count(False)) <= tries // 2:
            said.append(holds(rate))
        return said.count(True) > tries // 2

    return majority
