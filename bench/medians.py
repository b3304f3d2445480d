"""Two medians of what was measured in turns, and how far they may be off."""

import random
import statistics

# How often the measured values are drawn anew to see how far a median may be off (the bootstrap of
# Efron, 1979).
DRAWS, SEED = 1_000, 7


def cost(before, after):
    """By how many per cent the median is higher."""
    return (statistics.median(after) / statistics.median(before) - 1) * 100


def interval(before, after):
    """Between what the cost is in 95 of 100 draws."""
    return in_95_of_100(
        lambda rng: cost(rng.choices(before, k=len(before)), rng.choices(after, k=len(after)))
    )


def in_95_of_100(draw):
    """Between what `draw`, given random numbers, returns in 95 of 100 draws."""
    rng = random.Random(SEED)
    drawn = sorted(draw(rng) for _ in range(DRAWS))
    return drawn[round(DRAWS * 0.025)], drawn[round(DRAWS * 0.975) - 1]
