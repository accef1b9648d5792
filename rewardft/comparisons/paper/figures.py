"""The figures of a paper, drawn by matplotlib without its global state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rewardft.comparisons.paper.series import curve, path_between
from rewardft.comparisons.report.curves import axis_of
from rewardft.comparisons.report.numbers import plural
from rewardft.comparisons.report.verdicts import (
    focus,
    followed,
    group_of,
    ranked,
    value_names,
    value_of,
)
from rewardft.contracts.records import AXES, ComparisonRecord, Interval, Value, VariantRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are told apart with any colour vision; marks say the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
REST = "#AAAAAA"  # of variants beyond the seven best
ROWS = 70  # of the figure of groups: what a page has room for
STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "legend.fontsize": 6,
    "pdf.fonttype": 42,  # letters, not outlines: journals ask for it
    "svg.hashsalt": "rewardft",  # equal records give equal files
    "figure.constrained_layout.use": True,
}


def figures(record: ComparisonRecord, width: float) -> Iterator[tuple[str, str, Figure]]:
    """(name, caption, figure) of each that the record has numbers for. width: in inches."""
    name = focus(record)
    if name is None:
        return
    measured = [v for v in ranked(record) if changed(value_of(v, name))]
    if measured:
        rows = 0.55 + 0.16 * len(measured)
        caption = f"Change of {name} from the base, with 95 % intervals over seeds and samples."
        yield "change", caption, plot(width, rows, lambda ax: forest(ax, measured, name))
    axis, course = axis_of(record.budget), followed(record) or name
    drawn = [v for v in ranked(record) if curve(v, course, axis) is not None]
    if drawn:
        caption = (
            f"Change of {course} on held-out samples against {AXES[axis]}: means over seeds; bands "
            "are 95 % over seeds, for these samples."
        )
        yield (
            "curves",
            caption,
            plot(width, 0.75 * width, lambda ax: curves(ax, drawn, course, axis)),
        )
    yield from tradeoffs(record, course, width)
    grouped = group_values(record, name)
    if grouped:
        best = measured[: max(ROWS // len(grouped), 1)]
        caption = f"Change of {name} from the base by group of samples, with 95 % intervals."
        if len(best) < len(measured):
            caption += f" The best {len(best)} of {len(measured)} variants; the rest in report.csv."
        rows = 0.55 + 0.12 * len(best) * len(grouped)
        yield "groups", caption, plot(width, rows, lambda ax: groups(ax, best, grouped))


def tradeoffs(
    record: ComparisonRecord, name: str, width: float
) -> Iterator[tuple[str, str, Figure]]:
    """The value that the comparison is about against a divergence and against a diversity."""
    for kind in ("kl", "diversity"):
        other = next((n for n in value_names(record) if n.startswith(f"{kind}/")), None)
        pairs = [
            variant
            for variant in ranked(record)
            if other and changed(value_of(variant, name)) and changed(value_of(variant, other))
        ]
        if other is None or not pairs:
            continue
        caption = (
            f"Change of {name} against that of {other}: 95 % intervals at the end of training, and "
            "the mean path of each variant."
        )
        draw = tradeoff_of(pairs, other, name)
        yield f"tradeoff_{kind}", caption, plot(width, 0.8 * width, draw)


def tradeoff_of(variants: Sequence[VariantRecord], across: str, up: str) -> Callable[[Axes], None]:
    """The drawing of one trade-off."""
    return lambda ax: tradeoff(ax, variants, across, up)


def plot(width: float, height: float, draw: Callable[[Axes], None]) -> Figure:
    """One figure of this size in inches, in the style of all."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height))
        draw(figure.add_subplot())
        # Laid out while the style holds; it would be another one when the file is written.
        figure.draw_without_rendering()
    return figure


def forest(ax: Axes, variants: Sequence[VariantRecord], name: str) -> None:
    """One row for each variant, the best on top."""
    for row, variant in enumerate(variants):
        whisker(ax, estimate(value_of(variant, name)), row, look(row), bool(variant.alarms))
    name_rows(ax, [label(variant) for variant in variants])
    ax.axvline(0, color="#777777", linewidth=0.6, zorder=0)
    ax.set_xlabel(f"change of {name}")


def groups(ax: Axes, variants: Sequence[VariantRecord], names: dict[str, str]) -> None:
    """The same for each group of samples; rows of a variant stand together."""
    labels = []
    for row, variant in enumerate(variants):
        for column, (group, name) in enumerate(names.items()):
            value = value_of(variant, name)
            if changed(value):
                place = row * len(names) + column
                whisker(ax, estimate(value), place, look(column), bool(variant.alarms))
            labels.append(f"{label(variant)}, {group}")
    name_rows(ax, labels)
    ax.axvline(0, color="#777777", linewidth=0.6, zorder=0)
    ax.set_xlabel("change from the base")


def curves(ax: Axes, variants: Sequence[VariantRecord], name: str, axis: str) -> None:
    """Lines with bands; the best seven have a colour, a mark and a name."""
    # The best last, so that it lies on top.
    for row, variant in reversed(list(enumerate(variants))):
        found = curve(variant, name, axis)
        assert found is not None
        colour, mark = look(row)
        named = label(variant) if row < len(COLOURS) else None
        face = "white" if variant.alarms else colour
        style = {"color": colour, "marker": mark, "markersize": 3, "markerfacecolor": face}
        ax.plot(found.x, found.y, label=named, **style)  # type: ignore[arg-type]
        if not any(map(math.isnan, found.low)):
            ax.fill_between(found.x, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
    ax.axhline(0, color="#777777", linewidth=0.6, zorder=0)
    ax.set_xlabel(AXES[axis])
    ax.set_ylabel(f"change of {name}")
    legend(ax, len(variants))


def tradeoff(ax: Axes, variants: Sequence[VariantRecord], across: str, up: str) -> None:
    """Crosses of two intervals, and the path that led to each."""
    for row, variant in reversed(list(enumerate(variants))):
        colour, mark = look(row)
        one, other = (estimate(value_of(variant, name)) for name in (across, up))
        path = path_between(variant, across, up)
        if path:
            ax.plot(*zip(*path), color=colour, linewidth=0.6, alpha=0.6)
        named = label(variant) if row < len(COLOURS) else None
        ax.errorbar(
            one.value,
            other.value,
            xerr=arms(one),
            yerr=arms(other),
            color=colour,
            marker=mark,
            markersize=4,
            markerfacecolor="white" if variant.alarms else colour,
            linewidth=0.8,
            label=named,
        )
    ax.axhline(0, color="#777777", linewidth=0.6, zorder=0)
    ax.axvline(0, color="#777777", linewidth=0.6, zorder=0)
    ax.set_xlabel(f"change of {across}")
    ax.set_ylabel(f"change of {up}")
    legend(ax, len(variants))


def whisker(ax: Axes, value: Interval, row: int, style: tuple[str, str], alarmed: bool) -> None:
    """An estimate with its interval on a row; hollow where an alarm was raised."""
    colour, mark = style
    face = "white" if alarmed else colour
    where = {"color": colour, "marker": mark, "markersize": 4, "markerfacecolor": face}
    ax.errorbar(value.value, row, xerr=arms(value), linewidth=1.0, **where)  # type: ignore[arg-type]


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Rows from the top."""
    ax.set_yticks(range(len(labels)), labels)
    # Room for the marks of the first and the last row.
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def legend(ax: Axes, count: int) -> None:
    """Below the axes, where it hides nothing; in the order of rank."""
    handles, labels = ax.get_legend_handles_labels()
    if count > len(COLOURS):
        ax.set_title(f"{plural(count - len(COLOURS), 'further variant')} in grey", loc="left")
    # Long numbers on a narrow axis.
    ax.locator_params(axis="x", nbins=5)
    ax.figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)


def look(row: int) -> tuple[str, str]:
    """Colour and mark of a rank."""
    return (COLOURS[row], MARKS[row]) if row < len(COLOURS) else (REST, ".")


def label(variant: VariantRecord) -> str:
    """Its name; an alarmed one says so."""
    return f"{variant.name} (alarm)" if variant.alarms else variant.name


def changed(value: Value | None) -> bool:
    """Whether there is a change from the base to draw."""
    return value is not None and value.versus_base is not None and is_finite(value.versus_base)


def estimate(value: Value | None) -> Interval:
    """The change of a value that `changed` has passed."""
    assert value is not None and value.versus_base is not None
    return value.versus_base


def arms(value: Interval) -> Any:
    """The interval as lengths to both sides of the estimate; None where there is none."""
    lengths = [[value.value - value.low], [value.high - value.value]]
    return lengths if all(math.isfinite(side[0]) for side in lengths) else None


def is_finite(value: Interval) -> bool:
    """Whether there is an estimate."""
    return math.isfinite(value.value)


def group_values(record: ComparisonRecord, name: str) -> dict[str, str]:
    """{group: name of its value} of the value that the comparison is about."""
    known = set(value_names(record))
    found = {n: group_of(n, known) for n in known if n.endswith(f"/{name}")}
    return {group: n for n, group in sorted(found.items()) if group is not None}
