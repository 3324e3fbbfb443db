"""A chart of what `benchmarks.sockets --json FILE` has measured.

python -m benchmarks.plot FILE out.svg
"""

from __future__ import annotations

import argparse
import json
from typing import Any

# Read well on white and on black: the SVG has no background.
TEXT = "#7c7c8c"
OURS = "#6a63f0"
THEIRS = "#9a9aa8"
RIVALS = ("stock", "socketio", "floor")


def draw(cells: list[dict[str, Any]], output: str) -> None:
    """A panel for each server and number of clients, a bar for each stack."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "mpx-channels",  # the same figures make the same file
            "font.family": "sans-serif",
            "font.sans-serif": ["system-ui", "sans-serif", "DejaVu Sans"],
            "text.color": TEXT,
            "ytick.color": TEXT,
        }
    )
    from matplotlib import pyplot

    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    bars = max(len(cell["stacks"]) for cell in cells)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(4.6 * columns + 1, (0.34 * bars + 0.6) * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    most = max(row["median"]["rate"] for cell in cells for row in cell["stacks"].values())
    for panel in grid.flat[len(cells) :]:
        panel.set_visible(False)
    for panel, cell in zip(grid.flat, cells, strict=False):
        stacks = cell["stacks"]
        rates = [row["median"]["rate"] for row in stacks.values()]
        panel.barh(
            [row["title"] for row in stacks.values()],
            rates,
            height=0.7,
            color=[THEIRS if stack in RIVALS else OURS for stack in stacks],
        )
        for place, rate in enumerate(rates):
            panel.text(rate + most * 0.015, place, f"{rate:,.0f}", va="center", fontsize=9)
        panel.set_title(
            f"{cell['server'].capitalize()}, {cell['clients']:,} clients", fontsize=10, loc="left"
        )
        panel.set_xlim(0, most * 1.18)
        panel.xaxis.set_visible(False)
        panel.tick_params(axis="y", length=0, labelsize=9)
        panel.spines[:].set_visible(False)
    grid[0][0].invert_yaxis()
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    figure.supxlabel("deliveries per second: more is better", fontsize=9)
    figure.savefig(output, transparent=True, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="what --json has written")
    parser.add_argument("output", help="the SVG file to write")
    arguments = parser.parse_args()
    with open(arguments.file) as file:
        cells = json.load(file)["cells"]
    draw(cells, arguments.output)


if __name__ == "__main__":
    main()
