"""A result file as a bar chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertune.benchmark.goals import held
from layertune.benchmark.project import WIDEST, ends
from layertune.benchmark.render import whole_arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OWN, OTHERS = "tab:orange", "tab:grey"  # colours of the bars


def chart(content: dict[str, Any], path: Path) -> None:
    """Draw the ratios as bars, one panel per task, with half the range over the rounds; and peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks, memory = content["real"] + content["tasks"], content["memory"]
    lines = [line for task in tasks for line in task["arms"]] + memory
    if not lines:
        return
    lines = sorted(lines, key=lambda line: (line["arm"][0], -int(line["arm"][1:] or 0)))
    titles = {line["arm"]: f"{line['title']} ({line['arm'][0]})" for line in lines}
    panels = len(tasks) + bool(memory)
    size = (4.0 + 2.3 * panels, 1.5 + 0.32 * len(titles))
    figure, axes = pyplot.subplots(1, panels, figsize=size, squeeze=False, sharey=True)
    for axis, task in zip(axes[0], tasks, strict=False):
        whole = whole_arms(task)
        _ratios(
            axis, task, list(titles), f"{task['task']}\n{f'{whole} end to end' if whole else 'projected'}"
        )
    if memory:
        _shares(axes[0][-1], memory, list(titles))
    for axis in axes[0]:
        axis.margins(x=0.32)  # room for the words
    axes[0][0].set_yticks(range(len(titles)), list(titles.values()), fontsize=9)
    axes[0][0].set_ylim(len(titles) - 0.5, -0.5)
    where = content["machine"]
    figure.suptitle(
        f"Selection, cache and training, {where['epochs']} epochs, k = 3, batch {where['batch_size']}\n"
        f"{where['precision']}, {where['device']}, {where['threads']} thread "
        "(orange: layertune; pale: from one round to the other)",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _colour(arm: str) -> str:
    return OWN if arm[0] in "fgh" else OTHERS


def _ratios(axis: Axes, task: dict[str, Any], arms: list[str], title: str) -> None:
    for line in task["arms"]:
        place, spread = arms.index(line["arm"]), line["spread"] or 0.0
        low, high = ends(line["ratio"], spread)
        if spread <= WIDEST:
            axis.barh(place, line["ratio"], xerr=(high - low) / 2, color=_colour(line["arm"]))
            words = f"  {line['ratio']:.1f}"
        else:  # the rounds differ too much for one number
            axis.barh(place, high - low, left=low, color=_colour(line["arm"]), alpha=0.4)
            words = f"  {low:.1f}–{high:.1f}"
        axis.text(high, place, words, va="center", fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_xlabel("times as fast as (a)", fontsize=9)


def _shares(axis: Axes, memory: list[dict[str, Any]], arms: list[str]) -> None:
    for arm, own in held(memory).items():
        place, gigabytes = arms.index(arm), own / 1e9
        axis.barh(place, gigabytes, color=_colour(arm))
        axis.text(gigabytes, place, f"  {gigabytes:.2f}", va="center", fontsize=8)
    axis.set_title("peak memory\nof a step", fontsize=10)
    axis.set_xlabel("GB, 32 x 128 tokens", fontsize=9)
