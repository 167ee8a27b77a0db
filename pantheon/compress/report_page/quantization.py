"""What quantization did: bits and thresholds, files of integers, and what each layer's cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from pantheon.compress.report import Likeness, StageReport
from pantheon.compress.report_page.amounts import amount, digits, mapping, number, numbers, ratio
from pantheon.compress.report_page.drawing import COLOURS, canvas, plain
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run, stages_of
from pantheon.compress.report_page.section import (
    Cell,
    Heading,
    Part,
    Picture,
    Section,
    Table,
    Tiles,
    texts,
)

QUANTIZATION, INTEGERS, DIAGNOSIS = "quantization", "int8", "diagnosis"
"""The keys of a stage's figures that are shown here."""

MOST = 60
"""Layers in one picture."""


@panel("quantization", place=35)
def quantization(runs: Sequence[Run], choice: Choice) -> Section | None:
    """What each stage rounded, measured of the rounding, or exported as integers."""
    parts: list[Part] = []
    for name, run, report in stages_of(runs):
        shown = [*_rounded(report), *_exported(report, run), *_diagnosed(name, report)]
        if shown:
            parts += [Heading(name, report.phase), *shown]
    return Section("Quantization", parts) if parts else None


def _rounded(report: StageReport) -> Iterator[Part]:
    found = mapping(report.figures.get(QUANTIZATION))
    weights, activations = numbers(found.get("weights")), mapping(found.get("activations"))
    if not weights:
        return
    scales = "each output channel has" if found.get("per_channel") else "each layer has"
    simulated = " Fewer than 8 bits are simulated." if found.get("simulated") else ""
    reduced = (
        " Weights have half of the range of 8 bits, for processors without VNNI."
        if found.get("reduced_range")
        else ""
    )
    yield (
        f"The weights of {len(weights)} layers and {len(activations)} activations are rounded; "
        f"weights by {found.get('weight_thresholds')}, where {scales} a scale; activations as "
        f"{found.get('observer')} saw them in {found.get('samples')} samples, thresholds "
        f"{found.get('thresholds')}.{reduced}{simulated}{_corrected(found)}"
    )
    rows = [texts(f"weight of {path}", digits(bits), "", "") for path, bits in weights.items()]
    for site, values in activations.items():
        each = mapping(values)
        sign = "signed" if each.get("signed") else "unsigned"
        rows.append(texts(str(site), _text(each.get("bits")), _text(each.get("threshold")), sign))
    head = texts("tensor", "bits", "clipped beyond", "integers")
    yield Table(head, rows, title=f"what is rounded: {len(rows)}", folded=True)


def _corrected(found: Mapping[str, Any]) -> str:
    """What was put right after calibration, as sentences."""
    corrected = mapping(found.get("corrected"))
    errors = mapping(corrected.get("rounding")).values()
    pairs = [list(numbers(dict(enumerate(e))).values()) for e in errors if isinstance(e, list)]
    left = [pair[1] / pair[0] for pair in pairs if len(pair) == 2 and pair[0] > 0]
    said = ""
    if left:
        said += (
            f" Which way weights of {len(left)} layers are rounded was learned: {median(left):.0%} "
            "of the squared error of rounding to nearest is left, in the median."
        )
    if shifts := numbers(corrected.get("biases")):
        said += f" Biases of {len(shifts)} layers were shifted to the means that these had."
    return said


def _exported(report: StageReport, run: Run) -> Iterator[Part]:
    found = mapping(report.figures.get(INTEGERS))
    if tiles := of_integers(report, run):
        yield tiles
    left = found.get("float_operators")
    if isinstance(left, list) and left:
        rows = [texts(str(each)) for each in left]
        title = f"operators that are left with real numbers: {len(left)}"
        yield Table(texts("operator, and the module it came from"), rows, title=title, folded=True)


def of_integers(report: StageReport, run: Run) -> Tiles | None:
    """Size and latency of a file of integers beside the one of real numbers; None without one."""
    found = mapping(report.figures.get(INTEGERS))
    if not found:
        return None
    tiles = []
    for name, unit in (("bytes", "B"), ("latency", "")):
        values = [_figure(each, name) for each in (found, report.figures)]
        if values[0] is not None:
            text = amount(values[0], unit) if unit else f"{digits(values[0])} ms"
            title = "file of integers" if unit else "latency of integers"
            beside = ratio(*values)
            tiles.append((title, Cell(text, f"{beside} of real numbers'" if beside else "")))
    for name, alike in run.exported.items():
        if name in (INTEGERS, f"{INTEGERS} of {report.stage}"):
            tiles.append(("agrees with the model that rounds", _alike(alike)))
    return Tiles(tiles)


def _figure(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return number(mapping(value).get("median") if name == "latency" else value)


def _alike(alike: Likeness) -> Cell:
    return Cell(f"{100 * alike.agreement:.2f} %", f"of {alike.samples:,} test samples")


def _diagnosed(name: str, report: StageReport) -> Iterator[Part]:
    """What one layer alone costs, and what is left when all others are rounded."""
    found = mapping(report.figures.get(DIAGNOSIS))
    layers = {str(k): mapping(v) for k, v in mapping(found.get("layers")).items()}
    by = [str(each) for each in found.get("by", ())] if isinstance(found.get("by"), list) else []
    if not layers or not by:
        return
    real, whole = numbers(found.get("real")), numbers(found.get("whole"))
    told = "; ".join(
        f"{each} {_text(real.get(each))} with real numbers, {_text(whole.get(each))} when all is "
        "rounded"
        for each in by
    )
    yield f"On {found.get('samples')} validation samples: {told}."
    if picture := _costs(name, by[0], layers, real.get(by[0]), whole.get(by[0])):
        yield picture
    head = [Cell("layer")]
    head += texts(*(f"{each}, {way}" for way in ("it alone", "all but it") for each in by))
    rows = [
        [
            Cell(path),
            *(
                Cell(_text(numbers(values.get(way)).get(each)))
                for way in ("alone", "without")
                for each in by
            ),
        ]
        for path, values in layers.items()
    ]
    yield Table(head, rows, title="with one layer rounded, and with all but one", folded=True)


def _costs(
    name: str,
    by: str,
    layers: Mapping[str, Mapping[str, Any]],
    real: float | None,
    whole: float | None,
) -> Picture | None:
    """Bars for each layer: what it adds alone, and what leaving it real would take away."""
    costs = {}
    for path, values in layers.items():
        alone, without = (numbers(values.get(way)).get(by) for way in ("alone", "without"))
        if alone is not None and without is not None and real is not None and whole is not None:
            costs[path] = (alone - real, whole - without)
    if not costs:
        return None
    drawn = dict(list(costs.items())[:MOST])
    figure, axes = canvas(1.0 + 0.2 * len(drawn))
    places = range(len(drawn))
    adds, saves = zip(*drawn.values(), strict=True)
    axes.barh([p - 0.2 for p in places], adds, height=0.4, color=COLOURS[0], label="it alone adds")
    saved = "without it, less by"
    axes.barh([p + 0.2 for p in places], saves, height=0.4, color=COLOURS[5], label=saved)
    axes.set_yticks(places, [plain(path) for path in drawn], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlabel="KL divergence, nats" if by == "kl" else plain(by))
    axes.set_title(plain(f"{name}: rounding"), fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
    ends = "; ".join(f"{path} {digits(a)} and {digits(s)}" for path, (a, s) in drawn.items())
    return Picture(f"rounding {name}", f"{by} by each layer, alone and without it: {ends}", figure)


def _text(value: Any) -> str:
    found = number(value)
    return "" if found is None else digits(found)
