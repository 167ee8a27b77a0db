"""``docs/results.md``: the table's records as text and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.paired import Difference
from benchmarks.table_cells import Table
from benchmarks.table_differences import accuracies, apart, better, difference, pairs, records
from examples.vision.data import patches
from examples.vision.regions import regions

HEAD = """# Results

What the stages do to MobileNetV1 x 0.5 on real image regions, by `python -m benchmarks.table`,
whose settings are in `benchmarks/table.yaml` and whose records in `benchmarks/results/table`.
Made from the records by `python -m benchmarks.table --write`.

- **Data**: {classes} regions of {photographs} photographs (`examples/vision`), {train:,} training
  views, {validation:,} by which the settings were chosen, and {test:,} test views of shifts that no
  training view has. All rows use all labels.
- **B** is trained {E} epochs. **B+** is B and {F} epochs more, with the schedule of the rows.
  Every row is B and {F} epochs of its own, from the same weights in the same order of samples,
  takes the last checkpoint, and is compared with the better of B and B+, paired by seed. The test
  part is read when a cell is finished, and nothing but the better of B and B+ is chosen by it.
- A difference is in points of top-1, with the standard deviation over seeds and a confidence
  interval of 95 % over seeds and regions (`benchmarks/paired.py`). A row is *met* if that lies at
  or above its target, *missed* if below, else *not resolved*. Regions of one photograph are alike:
  the second interval counts photographs in their place and is wider; it says what to expect of
  other photographs, of which {photographs} tell less than {classes} regions seem to.
- Teachers have learned from more views of each region ({views}), of which the first
  {own} are those that all rows learn from. They are trained once: what another seed of theirs would
  change is in no interval.
- The targets are PaddleSlim's own differences. Theirs are ImageNet's, of other models trained
  far longer, and are shown for orientation only.
"""


def write(table: Table) -> None:
    """Write the page and its picture."""
    lines = [_head(table)]
    lines += [*_accuracies(table), "", *_rows(table), "", *_teachers(table), *_plateau(table)]
    lines += _cuts(table)
    lines += _integers(table)
    lines += [f"- {note}" for note in table.spec.get("notes", ())]
    if _picture(table):
        lines += ["", "![Accuracy of every row and seed](results.png)"]
    page = table.home / "docs" / "results.md"
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {page}")


def _head(table: Table) -> str:
    spec, own = table.spec, table.spec["data"]["train"]
    views = ", ".join(
        f"{teacher} {asked.get('data', {}).get('train', own)}"
        for teacher, asked in spec["teachers"].items()
    )
    data = patches(**spec["data"])
    counts = {part: data.count(part) for part in ("train", "validation", "test")}
    photographs = len({region.photograph for region in regions(data.classes)})
    return HEAD.format(
        E=spec["E"],
        F=spec["F"],
        own=own,
        views=views,
        classes=data.classes,
        photographs=photographs,
        **counts,
    )


def _accuracies(table: Table) -> list[str]:
    lines = [
        "| row | seeds | top-1, test part, mean ± sd | M MACs | parameters | KB |",
        "|---|---|---|---|---|---|",
    ]
    for row in (*table.spec["teachers"], "B", "B+", "plateau", *table.rows):
        found = accuracies(table, row)
        if not found:
            lines.append(f"| {row} | 0 | not run yet | | | |")
            continue
        means = [float(np.mean(regions)) for regions in found.values()]
        sd = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        one = table.record(row, min(found))
        assert one is not None
        after = one["after"]
        lines.append(
            f"| {row} | {len(found)} | {np.mean(means):.2f}{sd} | {after['macs'] / 1e6:.2f} | "
            f"{after['parameters']:,} | {one.get('int8', after)['bytes'] / 1e3:.0f} |"
        )
    return lines


def _rows(table: Table) -> list[str]:
    baseline = better(table)
    lines = [
        f"| row | against {baseline}: points ± sd of seeds | target | 95 %, seeds and regions | | "
        "95 %, seeds and photographs | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, asked in table.spec["rows"].items():
        target = asked.get("target")
        every = [difference(table, row, baseline, photographs=p) for p in (False, True)]
        both = [*pairs(table, row, baseline).values()]
        told = [f"{_interval(d)} | {_verdict(table, row, d, len(both))}" for d in every]
        points = _told(every[0])
        if len(both) == 1:
            points = f"{both[0][0]['top1'] - both[0][1]['top1']:+.2f}"
        goal = "none: a control" if target is None else f"{target:+}"
        lines.append(f"| {row} | {points} | {goal} | {' | '.join(told)} |")
    said: dict[str, list[str]] = {}
    for row in table.rows:
        said.setdefault(_baseline(table, row, baseline), []).append(row)
    lines += [line for text, some in said.items() if text for line in ("", ", ".join(some) + text)]
    for row, other in (*((row, baseline) for row in table.rows), ("plateau", "B+")):
        if seeds := apart(table, row, other):
            which = ", ".join(map(str, seeds))
            lines += ["", f"{row} began with other weights than {other} in seeds {which}."]
    return lines


def _baseline(table: Table, row: str, baseline: str) -> str:
    """What a row is compared with, where that is not what the table has of the baseline."""
    both = pairs(table, row, baseline)
    other = {s: t for s, (_, t) in both.items() if t != table.record(baseline, s)}
    if not other:
        return ""
    mean = np.mean([record["top1"] for record in other.values()])
    return (
        " began with weights of B that were trained on another machine, and are compared with a "
        f"{baseline} that did: {mean:.2f} over seeds {', '.join(map(str, other))}."
    )


def _verdict(table: Table, row: str, found: Difference | None, seeds: int) -> str:
    """None is given before all seeds are there."""
    planned, target = len(table.seeds(row)), table.spec["rows"][row].get("target")
    if found is None or seeds < planned:
        return f"{seeds} of {planned} seeds" if seeds else "not run yet"
    return "" if target is None else f"**{found.verdict(target)}**"


def _told(found: Difference | None) -> str:
    return "" if found is None else f"{found.mean:+.2f} ± {found.sd:.2f}"


def _interval(found: Difference | None) -> str:
    return "" if found is None else f"{found.low:+.2f} to {found.high:+.2f}"


def _teachers(table: Table) -> list[str]:
    """By how much the teachers lead."""
    mean, asked = _mean(table, "B+"), table.spec["lead"]
    leads = [(teacher, _mean(table, teacher) - mean) for teacher in table.spec["teachers"]]
    return [
        f"- {teacher} leads B+ by {lead:.2f} points; {asked} are asked for: "
        f"**{'met' if lead >= asked else 'missed'}**."
        for teacher, lead in leads
        if np.isfinite(lead)
    ]


def _mean(table: Table, row: str) -> float:
    """Top-1 over all seeds there are; NaN for none."""
    found = list(accuracies(table, row).values())
    return float(np.mean(found)) if found else float("nan")


def _plateau(table: Table) -> list[str]:
    """What more epochs would do to the baseline."""
    found, most = difference(table, "plateau", "B+"), table.spec["plateau"]
    wider = difference(table, "plateau", "B+", photographs=True)
    if found is None or wider is None:
        return []
    # It is met where the gain is surely less, which is where `most` as a target is missed.
    said = {"missed": "met", "met": "missed"}.get(found.verdict(most), "not resolved")
    more = (table.spec["E"] + table.spec["F"]) // 2
    return [
        f"- Plateau: {more} epochs more than B+ add {_told(found)} points over {found.seeds} seeds "
        f"(95 %: {_interval(found)} over seeds and regions, {_interval(wider)} over seeds and "
        f"photographs); less than {most} are asked for: **{said}**."
    ]


def _cuts(table: Table) -> list[str]:
    """What rows had come to when they were cut, before they were trained."""
    rows = [row for row in table.rows if {"prune", "search"} & set(table.spec["rows"][row])]
    cut = {row: values for row in rows if (values := _cut(table, row))}
    if not cut:
        return []
    lines = [
        "",
        "Before any training, with batch norms measured anew, on the validation part:",
        "",
        "| row | seeds | M MACs | top-1, mean ± sd |",
        "|---|---|---|---|",
    ]
    for row, found in cut.items():
        tops = [record["metric"]["top1"] for record in found]
        sd = f" ± {np.std(tops, ddof=1):.2f}" if len(tops) > 1 else ""
        macs = np.mean([record["macs"] for record in found]) / 1e6
        lines.append(f"| {row} | {len(tops)} | {macs:.2f} | {np.mean(tops):.2f}{sd} |")
    for row in cut:
        lines += _beside(table, row)
    return [*lines, ""]


def _integers(table: Table) -> list[str]:
    """What rows came to that are computed with integers."""
    rows = [row for row in table.rows if "quantize" in table.spec["rows"][row]]
    done = {row: found for row in rows if (found := records(table, row))}
    if not done:
        return []
    lines = [
        "",
        "Rows of integers are what ONNX Runtime answers for the exported file over the whole test "
        "part, beside the model that rounds in torch. Sizes are those of the files, beside that of "
        "B's weights; operators are those that are left with real numbers.",
        "",
        "| row | seeds | top-1, integers | top-1, rounding in torch | they agree on | size | asked "
        "for | real operators |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, every in done.items():
        told = [record["int8"] for record in every.values()]
        sizes = [_size(table, seed, record) for seed, record in every.items()]
        asked = table.spec["rows"][row].get("size")
        verdict = "" if asked is None else "**met**" if max(sizes) <= asked else "**missed**"
        agreed = [100 * each["agreement"] for each in told]
        kinds = Counter(name.split(" of ")[0] for name in told[0]["float_operators"])
        left = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        lines.append(
            f"| {row} | {len(every)} | {np.mean([r['top1'] for r in every.values()]):.2f} | "
            f"{np.mean([each['simulated'] for each in told]):.2f} | "
            f"{min(agreed):.2f} to {max(agreed):.2f} % | {np.mean(sizes):+.2f} % | "
            f"{'' if asked is None else f'{asked:+} %: {verdict}'} | {left} |"
        )
    return [*lines, ""]


def _size(table: Table, seed: int, record: Mapping[str, Any]) -> float:
    """How much larger a row's file of integers is than B's weights, in percent."""
    base = table.record("B", seed)
    assert base is not None
    return 100 * (float(record["int8"]["bytes"]) / float(base["after"]["bytes"]) - 1)


def _beside(table: Table, row: str) -> list[str]:
    """How a row does beside others of the same size, before training and after."""
    asked = table.spec["rows"][row].get("beside", [])
    every = asked if isinstance(asked, list) else [asked]
    return [line for one in every for line in _beside_one(table, row, one)]


def _beside_one(table: Table, row: str, asked: Mapping[str, Any]) -> list[str]:
    other = asked["row"]
    pairs = zip(_cut(table, row), _cut(table, other), strict=False)
    before = [ours["metric"]["top1"] - theirs["metric"]["top1"] for ours, theirs in pairs]
    found = difference(table, row, other)
    if found is None or len(before) < len(table.seeds(row)):
        return []
    told = ", ".join(f"{points:+.2f}" for points in before)
    verdict = ""
    if "before" in asked:
        said = "met" if min(before) >= asked["before"] else "missed"
        verdict = f"; {asked['before']:+} are asked for, of each: **{said}**"
    return [
        "",
        f"{row} beside {other}: before training {told} points of the validation part, seed by "
        f"seed{verdict}. After it {_told(found)} (95 %: {_interval(found)} over seeds and "
        f"regions); {asked['after']:+} is asked for: **{found.verdict(asked['after'])}**.",
    ]


def _cut(table: Table, row: str) -> list[dict[str, Any]]:
    found = (table.record(row, seed) for seed in accuracies(table, row))
    return [record["cut"] for record in found if record and "cut" in record]


def _picture(table: Table) -> bool:
    """A dot for every cell; False where there are none."""
    from matplotlib.figure import Figure

    shown = (*table.spec["teachers"], "B", "B+", "plateau", *table.rows)
    rows = [row for row in shown if accuracies(table, row)]
    if not rows:
        return False
    figure = Figure(figsize=(6.4, 0.6 + 0.5 * len(rows)), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        means = [float(np.mean(regions)) for regions in accuracies(table, row).values()]
        axes.plot(means, [place] * len(means), "o", color="#0072b2", alpha=0.6)
        axes.plot(np.mean(means), place, "|", color="black", markersize=22)
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.set_xlabel("top-1 on the test part, %; a dot for each seed, a bar at their mean")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    figure.savefig(table.home / "docs" / "results.png", format="png")
    return True
