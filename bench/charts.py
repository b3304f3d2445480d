"""The charts of the report, as SVG."""

import matplotlib
from matplotlib.figure import Figure

COLOURS = ["#2b6cb0", "#dd6b20", "#718096", "#38a169"]


def draw(file, chart):
    """Draws a chart into that file, and returns the file's name.

    ("scatter", title, x, y, points), ("curves", title, x, y, {name: points}) or ("bars", title, y, {bar: {part: height}}).
    """
    kind, title, *rest = chart
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    if kind == "scatter":
        x, y, points = rest
        points = sorted(points)
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], "o-", color=COLOURS[0], markersize=4
        )
        axes.set_xlabel(x)
    elif kind == "curves":
        x, y, curves = rest
        for name, points in curves.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], linewidth=1, label=name)
        axes.set_xlabel(x)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        y, bars = rest
        below = dict.fromkeys(bars, 0.0)
        parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
        for part, colour in zip(parts, COLOURS):
            heights = [bar.get(part, 0.0) for bar in bars.values()]
            axes.bar(
                list(bars),
                heights,
                bottom=list(below.values()),
                label=part,
                color=colour,
                width=0.5,
            )
            below = {name: below[name] + height for name, height in zip(bars, heights)}
        axes.legend(fontsize=8)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    # Text as text: each letter as a shape takes more than the curves.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.name
