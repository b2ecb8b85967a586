"""A bar chart: IoU of every class, arm by arm, with intervals where there are several scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xmodal.atomic import atomic_path
from xmodal.evaluate.segmentation import iou_per_class
from xmodal.runs.evaluate.summary import Results

# Colours that stay apart for most colour-blind readers (Okabe and Ito, 2008).
_COLOURS = ("#8a8a8a", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def write_chart(path: Path, results: Results) -> bool:
    """Draw the chart; False when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    arms = list(results.tallies)
    groups = ["mean", *results.names]
    figure = Figure(figsize=(min(24.0, 2.5 + 0.22 * len(groups) * (len(arms) + 1)), 4.2), dpi=110)
    axes = figure.subplots()
    width = 0.84 / len(arms)
    for place, arm in enumerate(arms):
        iou = iou_per_class(results.total(arm).confusion)
        mean, low, high = results.mean_iou(arm)
        lows, highs = results.class_intervals(arm)
        values = np.array([mean, *iou])
        ends = np.array([[low, *lows], [high, *highs]])
        error = np.nan_to_num(np.abs(ends - values))
        x = np.arange(len(groups)) + (place - (len(arms) - 1) / 2) * width
        colour = _COLOURS[place % len(_COLOURS)]
        axes.bar(x, np.nan_to_num(values), width * 0.94, color=colour, label=arm)
        some = error.sum(0) > 0
        axes.errorbar(
            x[some], values[some], yerr=error[:, some], fmt="none", ecolor="#222222",
            elinewidth=0.9, capsize=1.5,
        )  # fmt: skip
        for at in x[np.isnan(values)]:
            axes.text(float(at), 0.01, "-", ha="center", fontsize=7)
    axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=40, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_ylabel("IoU")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    count = len(results.scenes)
    over = "classes" if count == 1 else f"{count} scenes"
    how = "on points" if results.protocol == "3d" else "rendered into frames"
    axes.set_title(f"IoU {how}; 95 % intervals over {over}", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, ncols=len(arms), loc="upper right")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return True
