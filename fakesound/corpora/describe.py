"""What a corpus holds: counts by partition and family, lengths of the forged stretches, and its rejects."""

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fakesound.core.errors import UserError
from fakesound.core.files import writing
from fakesound.core.schemas import GENUINE, PARTITIONS

PLOT_SUFFIXES = (".png", ".svg", ".html")
_COLOURS = {
    "train": "#3f88c5",
    "validation": "#5aa469",
    "validation_unseen": "#a267ac",
    "test": "#e07a34",
}
_HEAD = ("partition", "family", "part", "clips", "hours", "sources", "groups", "regions", "forged s")
_BINS = 40
_SHOWN_REJECTS = 3
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

_Row = dict[str, Any]


def describe_table(table: pa.Table, protocol: Mapping[str, Sequence[str]]) -> str:
    """Counts of a table with the manifest's columns, as text.

    One line for each family of each partition: clips, hours, source components, groups, forged regions, and
    the median and range of their lengths. `part` is the family's part in the protocol.
    """
    rows = table.to_pylist()
    groups: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row["partition"], row["family"]].append(row)
    part_of = {family: part for part in protocol if part != "views" for family in protocol[part]}
    order = {partition: place for place, partition in enumerate(PARTITIONS)}
    lines = [
        (partition, family, part_of.get(family, "-"), *_counts(members))
        for (partition, family), members in sorted(
            groups.items(), key=lambda item: (order[item[0][0]], item[0][1] != GENUINE, item[0][1])
        )
    ]
    return _aligned([_HEAD, *lines, ("all", "", "", *_counts(rows))])


def describe_rejects(rejects: pa.Table) -> str:
    """Refusals counted by reason, the most frequent first, each reason with a few examples, as text.

    Args:
        rejects: a corpus's rejects table. Reasons that differ after the colon, or in numbers (shown as N),
            count as one.
    """
    by_reason: dict[str, list[_Row]] = defaultdict(list)
    for row in rejects.to_pylist():
        by_reason[_NUMBER.sub("N", row["reason"].partition(":")[0])].append(row)
    lines = [f"rejects: {rejects.num_rows}"]
    for reason, rows in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"{len(rows):6d}  {reason}")
        lines += [f"        {row['path']!r}: {row['reason']}" for row in rows[:_SHOWN_REJECTS]]
        if len(rows) > _SHOWN_REJECTS:
            lines.append(f"        and {len(rows) - _SHOWN_REJECTS} more")
    return "\n".join(lines)


def plot_lengths(table: pa.Table, path: str | Path) -> None:
    """Histogram of the lengths of forged regions, a colour a partition, lengths on a logarithmic axis.

    Args:
        table: with the manifest's columns.
        path: picture to write; .png, .svg, or .html (a page with the picture in it).

    Raises:
        UserError: the file cannot be written, or its ending is none of these.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PLOT_SUFFIXES:
        raise UserError(f"{path}: a picture ends in {', '.join(PLOT_SUFFIXES)}")
    figure = _figure(_lengths_by_partition(table))
    with writing(path) as beside:
        if suffix == ".html":
            beside.write_text(_page(figure))
        else:
            figure.savefig(str(beside), dpi=120, format=suffix.removeprefix("."))


def _counts(rows: Sequence[_Row]) -> tuple[str, ...]:
    lengths_s = [length for row in rows for length in _lengths(row)]
    spread = f"{np.median(lengths_s):.2f} ({min(lengths_s):.2f}-{max(lengths_s):.2f})" if lengths_s else "-"
    return (
        f"{len(rows)}",
        f"{sum(row['duration_s'] for row in rows) / 3600:.2f}",
        f"{len({row['source_component'] for row in rows})}",
        f"{len({row['group'] for row in rows})}",
        f"{len(lengths_s)}",
        spread,
    )


def _lengths(row: _Row) -> list[float]:
    return [region["offset_s"] - region["onset_s"] for region in row["regions"]]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: three of names to the left, figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if column < 3 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _lengths_by_partition(table: pa.Table) -> dict[str, list[float]]:
    rows = table.select(["partition", "regions"]).to_pylist()
    found = {
        partition: [length for row in rows if row["partition"] == partition for length in _lengths(row)]
        for partition in PARTITIONS
    }
    return {partition: lengths for partition, lengths in found.items() if lengths}


def _figure(lengths_s: Mapping[str, Sequence[float]]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    every = [length for lengths in lengths_s.values() for length in lengths]
    if not every:
        axes.text(0.5, 0.5, "no forged regions", ha="center", transform=axes.transAxes)
        return figure
    edges = np.geomspace(min(every) * 0.98, max(every) * 1.02, _BINS + 1).tolist()
    for partition, lengths in lengths_s.items():
        axes.hist(
            lengths,
            edges,
            histtype="step",
            linewidth=1.5,
            color=_COLOURS[partition],
            label=f"{partition}: {len(lengths)} regions, median {np.median(lengths):.2f} s",
        )
    axes.set(xscale="log", xlabel="length of a forged region, s", ylabel="regions")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False, ncols=2)
    return figure


def _page(figure: Any) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    picture = svg.getvalue()
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        "<title>Lengths of forged regions</title>\n"
        f"<body>\n{picture[picture.index('<svg') :]}</body>\n</html>\n"
    )
