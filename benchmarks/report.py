"""Measured answers as Markdown and as a figure; every verdict is computed here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import corpus_rates, peers, startup, ways
from benchmarks.targets import TARGETS, Answer, Target, best_product, disturbed, ratios

GROWN = (ways.GEOMETRY, ways.CACHE, ways.LENS, ways.THEIRS)
CORPUS = "run_corpus: rotation + path_length, whole process"
DRAWN = (*GROWN, CORPUS)
COLOURS = dict(zip(DRAWN, ("#2b6cb0", "#a0aec0", "#c05621", "#718096", "#2f855a"), strict=True))
DASHES = dict(zip(DRAWN, ("solid", "dot", "solid", "dot", "solid"), strict=True))


def markdown(results: Mapping[str, Any], figure: str | None) -> str:
    """The document, from what `benchmarks.__main__` collected; `figure` is a path or None."""
    parts = [_head(results), _verdicts(results["answers"])]
    if results.get("returned"):
        parts.append(_returned(results["returned"]))
    parts += [_table(answer) for answer in results["answers"]]
    parts.append(_peers(results["answers"]))
    parts.append(_start_up(results["start_up"]))
    for name, room in (("start_to_finish", startup), ("corpora", corpus_rates)):
        if name in results:
            parts.append(room.section(results[name]))
    if figure:
        parts.append(_growth(results["growth"], figure))
    return re.sub(r"(?<=\d)%", " %", "\n\n".join(parts)) + "\n"


def _head(results: Mapping[str, Any]) -> str:
    machine = results["answers"][0]["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    where = machine["gpu"] or machine["cpu"]
    return f"""# Speed and memory

Written by `{results["command"]}` on {results["date"]}; no number in its tables is typed by hand.
{where}, {machine["threads"]} thread(s), {machine["dtype"]}, Python {machine["python"]}, {versions}.

Models have the named shape and random weights. Within a table all ways were timed in turns, round
by round ({results["rounds"]} rounds after one to warm up), so that other work on the machine slows
all of them alike; a ratio is the median of the ratios within a round, a time the median, with the
quartiles in brackets. The process that is timed keeps freed memory for its next tensors
(`MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` of glibc), and the lens keeps its store, as
within a run. Memory is measured in another process, with glibc as it is: the peak of the resident
set during one warm call, minus its size before the call. Where other programs kept the processor
busy, or the rounds of the bare products differ, the verdict is "noisy"."""


def _verdicts(answers: Sequence[Answer]) -> str:
    rows = ["| target | model, batch | limit | measured | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        for answer in answers:
            values = target.measured(answer)
            if values:
                rows.append(_verdict(target, answer, values))
    noise = [f"{_name(a)}: {disturbed(a)}." for a in answers if disturbed(a)]
    if noise:
        rows += ["\nThe machine was not quiet, so times are reported and not judged.", *noise]
    return "## Targets\n\n" + "\n".join(rows)


def _returned(answer: Answer) -> str:
    """The paragraph on the part of geometry's time in which the system provides memory."""
    seconds = answer["seconds"]
    attached, run = (
        _cell(seconds[name], seconds[ways.FORWARD]) for name in (ways.ATTACHED, ways.GEOMETRY)
    )
    return f"""By default glibc returns freed memory to the system, which provides it again page by
page. With this default, {_name(answer)} measured {attached} × with rotation and path_length
attached and {run} × for their run alone: while states are held for an analysis, the model's next
tensors lie on new pages."""


def _verdict(target: Target, answer: Answer, values: Sequence[float]) -> str:
    sign = "≥" if target.at_least else "≤"
    verdict = "met" if target.met(median(values)) else "**missed**"
    if target.unit != "MB" and disturbed(answer):
        verdict = "noisy"
    limit = f"{sign} {target.limit:g} {target.unit}"
    measured = f"{_spread(values)} {target.unit}"
    return f"| {target.text} | {_name(answer)} | {limit} | {measured} | {verdict} |"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the quartiles where there are several values."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _name(answer: Answer) -> str:
    rows, length = answer["batch"]
    return f"{answer['shape']['name']}, {rows} × {length}"


def _table(answer: Answer) -> str:
    shape, seconds = answer["shape"], answer["seconds"]
    product = best_product(answer)
    base, own = seconds.get(ways.FORWARD), seconds.get(product or "")
    rows = [
        f"## {_name(answer)}",
        f"\n{shape['layers']} blocks, width {shape['width']}, vocabulary {shape['vocab']:,}.\n",
        "| way | seconds | to the forward | to the products | extra memory, MB |",
        "|---|---|---|---|---|",
    ]
    for name, taken in seconds.items():
        if name in peers.LACKS:
            continue
        memory = answer["megabytes"][name]
        cells = (
            name,
            _spread(taken, 3),
            _cell(taken, base),
            _cell(taken, own) if "lens" in name or name.startswith(ways.PRODUCTS) else "",
            "" if memory is None else f"{memory:.0f}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    if own:
        rate = answer["multiplications"] / median(own) / 1e9
        rows.append(f"\nThe best of the bare products ran at {rate:,.0f} GFLOP/s.")
    if answer["save"]:
        saved = answer["save"]
        rows.append(
            f"\nSaving a table: {saved['rows']:,} rows at {saved['rows_per_second']:,.0f} rows/s, "
            "building the data frame included."
        )
    return "\n".join(rows)


def _cell(taken: Sequence[float], base: Sequence[float] | None) -> str:
    return _spread([a / b for a, b in zip(taken, base, strict=True)]) if base else ""


def _peers(answers: Sequence[Answer]) -> str:
    """The table of lenses by other means, each from tokens to statistics."""
    rows = [
        "## A lens by other means\n",
        "From tokens to log-probability, rank, entropy and top token of every state, the forward "
        "pass included. Our run\ngives the divergences too, checks the readout, and makes "
        "tables.\n",
        "| way | model, batch | seconds | to our run | extra memory, MB | does not give |",
        "|---|---|---|---|---|---|",
    ]
    for answer in answers:
        for name, taken in answer["seconds"].items():
            if name in (*peers.LACKS, ways.LENS_RUN):
                memory = answer["megabytes"][name]
                cells = (
                    name,
                    _name(answer),
                    _spread(taken, 3),
                    _spread(ratios(answer, name, ways.LENS_RUN)),
                    "" if memory is None else f"{memory:.0f}",
                    peers.LACKS.get(name, ""),
                )
                rows.append("| " + " | ".join(cells) + " |")
    absent = {name: why for answer in answers for name, why in answer.get("absent", {}).items()}
    rows += [f"\nNot measured: {name}. {why}" for name, why in absent.items()]
    return "\n".join(rows)


def _start_up(start_up: Mapping[str, Mapping[str, float]]) -> str:
    rows = ["## Starting", "", "| command | limit, s | best, s | |", "|---|---|---|---|"]
    for command, fact in start_up.items():
        verdict = "met" if fact["seconds"] < fact["limit"] else "**missed**"
        rows.append(f"| `{command}` | {fact['limit']:g} | {fact['seconds']:.2f} | {verdict} |")
    return "\n".join(rows)


def _growth(growth: Sequence[Mapping[str, Any]], path: str) -> str:
    axes = sorted({point["axis"] for point in growth})
    return f"""## Growth

One quantity varies at a time ({", ".join(axes)}), the others are as in the smallest model above.
The corpus is in the embedded model's language; its memory is that of the whole process.

![Time and peak memory against layers, tokens, vocabulary and the length of a corpus]({path})"""


def figure(growth: Sequence[Mapping[str, Any]]) -> Any:
    """Time (above) and extra memory (below), one column per quantity that grows."""
    from plotly.subplots import make_subplots

    axes = list(dict.fromkeys(point["axis"] for point in growth))
    drawn = make_subplots(
        2, len(axes), shared_xaxes=True, vertical_spacing=0.08, horizontal_spacing=0.06
    )
    for column, axis in enumerate(axes, start=1):
        points = [point for point in growth if point["axis"] == axis]
        for name in DRAWN:
            if name in points[0]["answer"]["seconds"]:
                _draw(drawn, points, name, column)
        drawn.update_xaxes(title_text=axis, row=2, col=column)
        drawn.update_xaxes(tickvals=[p["value"] for p in points], tickformat="~s", col=column)
    drawn.update_yaxes(title_text="seconds", row=1, col=1)
    drawn.update_yaxes(title_text="extra memory, MB", row=2, col=1)
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": 1.16, "x": 0},
        width=1300,
        height=620,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
    )
    return drawn


def _draw(drawn: Any, points: Sequence[Mapping[str, Any]], name: str, column: int) -> None:
    x = [point["value"] for point in points]
    line = {"color": COLOURS[name], "dash": DASHES[name]}
    seconds = [median(point["answer"]["seconds"][name]) for point in points]
    memory = [point["answer"]["megabytes"][name] for point in points]
    for row, y in ((1, seconds), (2, memory)):
        drawn.add_scatter(
            x=x,
            y=y,
            name=name,
            line=line,
            mode="lines+markers",
            legendgroup=name,
            showlegend=row == 1 and (column == 1 or name == CORPUS),
            row=row,
            col=column,
        )


def write_png(drawn: Any, path: Path) -> bool:
    """Write the figure as PNG; False, with nothing written, if there is no browser to draw it."""
    try:
        drawn.write_image(path, scale=2)
    except (ImportError, ValueError, RuntimeError):
        return False
    return True
