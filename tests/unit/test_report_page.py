"""Pages about compression runs."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pantheon.cli import app
from pantheon.compress.report import Figures, Likeness, StageReport
from pantheon.compress.report_page import (
    Choice,
    Heading,
    Run,
    Section,
    load_run,
    load_runs,
    panel,
    panels,
    write_page,
)
from pantheon.compress.report_page.drawing import free_places
from pantheon.compress.report_page.nested import rows_of
from pantheon.compress.report_page.panels import metric_of, sections
from pantheon.compress.report_page.pareto import pareto
from pantheon.compress.report_page.section import Part, Picture, Table
from pantheon.compress.report_page.tradeoff import points_of
from pantheon.errors import ConfigError, StoreError

PNG = b"\x89PNG\r\n\x1a\n"


def latency(median: float, runtime: str = "torch") -> dict[str, Any]:
    return {
        "median": median,
        "lower": 0.9 * median,
        "upper": 1.2 * median,
        "minimum": 0.8 * median,
        "runs": 25,
        "rows": 1,
        "device": "cpu",
        "runtime": runtime,
        "threads": 1,
    }


def figures(macs: int, top1: float, kl: float, *, size: int = 896_014) -> Figures:
    return Figures(
        macs=macs,
        counter="a counter",
        parameters=macs // 4,
        bytes=size,
        latency=latency(macs / 1e6),
        metric={"top1": top1, "top5": 97.5},
        teacher=Likeness(kl, 0.525, 40),
        original=Likeness(kl / 2, 0.65, 40),
    )


ORIGINAL = replace(figures(16_000_000, 70.25, 0.8, size=3_210_000), original=None)
DISTILLED = figures(16_000_000, 74.5, 0.2, size=3_210_000)
PRUNED = figures(4_000_000, 72.75, 0.4)


def trained(count: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": index,
            "losses": {"kl": 2.0 / (index + 1), "cross_entropy": 1.0 / (index + 1)},
            "metrics": {"top1": 50.0 + index} if index % 2 else {},
            "seconds": 2.0,
            "wait": 0.5,
            "samples": 160,
        }
        for index in range(count)
    ]


def stage(name: str, before: Figures, after: Figures, **changed: Any) -> StageReport:
    values: dict[str, Any] = {
        "stage": name,
        "phase": "train",
        "before": before,
        "after": after,
        "changed": before != after,
        "samples": 640,
        "seconds": 75.4,
        "seed": 1001,
        "history": [],
        "figures": {},
        "files": {},
        "digest": "02d5746dd7740165ab7acd00b45c77dd",
    }
    return StageReport(**{**values, **changed})


EXPORT = {
    "largest_difference": 1.4901161193847656e-07,
    "bytes": 988_126,
    "latency": latency(0.25, "onnxruntime"),
}
STAGES = (
    stage("distil", ORIGINAL, DISTILLED, history=trained(4)),
    stage("prune", DISTILLED, PRUNED, phase="prune", seed=1002),
    stage(
        "export", PRUNED, PRUNED, phase="export", figures=EXPORT, files={"onnx": "3-export/a.onnx"}
    ),
)
TEST = {"original": {"top1": 68.0}, "result": {"top1": 71.5}}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def leave(
    folder: Path,
    stages: tuple[StageReport, ...] = STAGES,
    *,
    original: Figures | None = ORIGINAL,
    test: Mapping[str, Any] | None = TEST,
    asked: Mapping[str, Any] | None = None,
) -> Path:
    """Write what a run leaves; without `test`, of one that is not finished."""
    plan = [{"stage": report.stage} for report in stages]
    default = {"seed": 7, "device": "cpu", "threads": 2, "stages": plan}
    put(folder / "run.json", {"version": 1, "asked": default if asked is None else asked})
    if original is not None:
        put(folder / "0-original" / "figures.json", asdict(original))
    for index, report in enumerate(stages):
        put(folder / f"{index + 1}-{report.stage}" / "report.json", report.as_json())
    if test is not None:
        put(folder / "summary.json", {"artifact": "x", "test": test})
    return folder


class Page(HTMLParser):
    """A page's words, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(*folders: Path, choice: Choice | None = None) -> tuple[Page, list[Path]]:
    page, pictures = write_page(load_runs(folders), folders[0], choice)
    return Page(page.read_text(encoding="utf-8")), pictures


def found(runs: list[Run], title: str) -> Section | None:
    return next((s for s in sections(runs, Choice()) if title in s.title), None)


def tables(section: Section) -> list[Table]:
    return [part for part in section.parts if isinstance(part, Table)]


def cells(table: Table) -> dict[str, list[str]]:
    """The texts and notes of a table's rows by name."""
    return {
        row[0].text: [f"{cell.text} {cell.note}".strip() for cell in row[1:]] for row in table.rows
    }


def test_the_summary_has_a_row_for_the_original_and_for_each_stage(tmp_path: Path) -> None:
    section = found([load_run(leave(tmp_path / "run"))], "Summary")
    assert section is not None
    models, tested = tables(section)
    assert [cell.text for cell in models.head] == [
        "model",
        "MACs",
        "parameters",
        "size on disk",
        "latency",
        "top1",
        "top5",
        "KL to teacher",
        "agrees with teacher",
        "KL to original",
        "agrees with original",
    ]
    rows = cells(models)
    assert list(rows) == ["original", "distil", "prune", "export"]
    assert rows["original"] == [
        "16 M",
        "4 M",
        "3.21 MB",
        "16 ms 14.4-19.2",
        "70.25",
        "97.50",
        "0.800 nats",
        "52.5 %",
        "itself",
        "itself",
    ]
    assert rows["prune"] == [
        "4 M 0.25x",
        "1 M 0.25x",
        "896 kB 0.28x",
        "4 ms 0.25x; 3.60-4.80",
        "72.75 +2.5",
        "97.50 ±0",
        "0.400 nats",
        "52.5 %",
        "0.200 nats",
        "65 %",
    ]
    assert cells(tested) == {"original": ["68"], "result": ["71.50 +3.5"]}


def test_each_stage_is_shown_before_and_after(tmp_path: Path) -> None:
    section = found([load_run(leave(tmp_path / "run"))], "before and after")
    assert section is not None
    badges = [(p.text, p.badge) for p in section.parts if isinstance(p, Heading)]
    assert badges == [("distil", "train"), ("prune", "prune"), ("export", "export")]
    _, prune, export, found_by_export = tables(section)
    rows = cells(prune)
    assert rows["MACs"] == ["16 M", "4 M", "0.25x"]
    assert rows["latency"] == ["16 ms", "4 ms", "0.25x"]
    assert rows["top1"] == ["74.50", "72.75", "-1.75"]
    assert rows["KL to teacher"] == ["0.200 nats", "0.400 nats", ""]
    assert cells(export)["size on disk"] == ["896 kB", "896 kB", "1x"]
    assert cells(found_by_export) == {
        "largest_difference": ["1.49e-07"],
        "bytes": ["988 kB"],
        "latency": ["0.250 ms 0.225 to 0.300; cpu, onnxruntime, 1 thread, 1 row"],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, list[Path]]:
    """The page of a finished run with all that there can be, and its pictures."""
    return made(leave(tmp_path_factory.mktemp("whole") / "run"))


def test_the_page_has_every_number_and_its_pictures_within_itself(
    whole: tuple[Page, list[Path]],
) -> None:
    page, pictures = whole
    for text in ("16 M", "3.21 MB", "74.50", "0.800 nats", "+2.5", "1 min 15 s", "1.49e-07"):
        assert text in page.text
    for text in ("a counter", "cpu, torch, 1 thread, 1 row", "distil 1001, prune 1002", "finished"):
        assert text in page.text
    images = page.attributes("img")
    assert len(images) == len(pictures) == 7
    assert all(image["alt"] for image in images)
    for image, picture in zip(images, pictures, strict=True):
        head, _, data = (image["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == picture.read_bytes()
        assert picture.read_bytes().startswith(PNG)
        assert picture.parent.name == "run"


def test_the_page_needs_nothing_from_elsewhere(whole: tuple[Page, list[Path]]) -> None:
    page, pictures = whole
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    refers = [a.get(key) for _, a in page.tags for key in ("src", "href") if a.get(key)]
    assert refers
    assert all((value or "").startswith(("data:image/png;base64,", "#")) for value in refers)
    text = (pictures[0].parent / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text


def test_all_that_a_run_says_is_escaped_and_drawn_as_it_stands(tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    odd = replace(
        DISTILLED, counter=evil, metric={"$\\frac{$<b>": 1.0, '_"><img src=x>': 2.0, "精度": 3.0}
    )
    reports = (
        stage(evil, odd, odd, history=[{"losses": {"_$x$": 1.0, "a$^$b": 2.0}, "metrics": {}}]),
        stage(
            "n" * 90, odd, odd, figures={evil: evil}, files={evil: evil}, phase=evil, digest=evil
        ),
    )
    asked = {evil: evil, "store": "s3://name:password@host/bucket"}
    folder = leave(tmp_path / "<i>", reports, original=odd, test={evil: {evil: 1.0}}, asked=asked)
    page, pictures = made(folder)
    assert not {"script", "b", "i"} & {tag for tag, _ in page.tags}
    assert evil in page.text
    assert len(page.attributes("img")) == len(pictures) == 6
    assert all(re.fullmatch(r"report-[a-z0-9-]+\.png", picture.name) for picture in pictures)
    assert "password" not in page.text
    assert "s3://…@host/bucket" in page.text


def test_a_run_that_has_only_begun_is_told_of(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", (), original=None, test=None)
    page, pictures = made(folder)
    assert "unfinished: 0 stages done" in page.text
    assert "No model was measured yet." in page.text
    assert pictures == []


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", STAGES[:1], test=None, asked={"stages": [1, 2, 3]})
    (folder / "2-prune").mkdir()
    page, _ = made(folder)
    assert "unfinished: 1 of 3 stages done" in page.text
    assert "2-prune begun, not done" in page.text
    assert "on the test part" not in page.text


def test_what_was_not_measured_is_said_or_left_out(tmp_path: Path) -> None:
    bare = Figures(macs=5, counter="", parameters=2, bytes=3, latency={})
    other = replace(bare, macs=3)
    folder = leave(
        tmp_path / "run", (stage("mine", bare, other),), original=bare, test={}, asked={}
    )
    page, pictures = made(folder)
    assert page.text.count("not measured") == 5  # Latency: a tile, two rows, before and after.
    assert "0.60x" in page.text
    assert "against" not in page.text
    assert "Training" not in page.text
    assert [picture.name for picture in pictures] == [
        "report-seconds-run.png",
        "report-samples-run.png",
    ]


def test_numbers_that_are_none_are_not_drawn_and_stop_nothing(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run")
    path = folder / "1-distil" / "report.json"
    values = json.loads(path.read_text())
    values["after"] |= {"macs": 10**400, "latency": {"median": "fast", "lower": None}}
    values["after"]["metric"]["top1"] = float("nan")
    values["seconds"] = float("inf")
    values["history"] = [{"losses": "none", "metrics": {"top1": None}, "seconds": []}, {}]
    put(path, values)
    page, pictures = made(folder)
    assert "not measured" in page.text
    assert "report-curves-distil-loss.png" not in [picture.name for picture in pictures]


def test_a_metric_that_is_read_every_second_epoch_has_points_there_only(tmp_path: Path) -> None:
    from pantheon.compress.report_page.curves import curves_of

    curves = curves_of(STAGES[0], "metrics")
    assert [v for v in curves["top1"] if v == v] == [51.0, 53.0]
    assert len(curves["top1"]) == 4
    section = found([load_run(leave(tmp_path / "run"))], "Training")
    assert section is not None
    drawn = [part for part in section.parts if isinstance(part, Picture)]
    line = drawn[1].figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [2, 4]
    assert list(line.get_ydata()) == [51.0, 53.0]


@pytest.mark.parametrize(
    ("points", "lower", "line"),
    [
        ([], False, []),
        ([(3, 1)], False, [0]),
        ([(1, 1), (2, 2), (3, 3)], False, [0, 1, 2]),
        ([(1, 3), (2, 2), (3, 1)], False, [0]),
        ([(1, 3), (2, 2), (3, 1)], True, [0, 1, 2]),
        ([(2, 5), (1, 4), (2, 6), (3, 6)], False, [1, 2]),
        ([(2, 5), (2, 5), (1, 5)], False, [2]),
        ([(2, 5), (2, 5)], False, [0]),
    ],
)
def test_the_pareto_line_holds_what_nothing_beats(
    points: list[tuple[float, float]], lower: bool, line: list[int]
) -> None:
    assert pareto(points, lower=lower) == line


def test_the_pareto_line_runs_over_all_models_of_all_runs(tmp_path: Path) -> None:
    small = replace(figures(2_000_000, 73.5, 0.3), original=None)
    other = leave(tmp_path / "other", (), original=small, test=None)
    runs = load_runs([leave(tmp_path / "run"), other])
    points = points_of(runs, "top1", "MACs")
    # The export left the model as it was, and has no point of its own.
    assert [(p.run, p.name, p.cost, p.worth) for p in points] == [
        (0, "original", 16e6, 70.25),
        (0, "distil", 16e6, 74.5),
        (0, "prune", 4e6, 72.75),
        (1, "original", 2e6, 73.5),
    ]
    section = found(runs, "top1 against cost")
    assert section is not None
    rows = cells(tables(section)[0])
    assert rows["MACs"] == ["other: original (73.50 at 2 M); run: distil (74.50 at 16 M)"]
    assert list(rows) == ["MACs", "bytes", "latency"]
    line = next(p for p in section.parts if isinstance(p, Picture)).figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [2e6, 16e6]
    assert list(line.get_ydata()) == [73.5, 74.5]


def test_the_metric_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    runs = load_runs([leave(tmp_path / "run")])
    assert metric_of(runs, Choice()) == "top1"
    assert metric_of(runs, Choice("top5")) == "top5"
    with pytest.raises(ConfigError, match="has the metric 'top9'; expected one of top1, top5"):
        metric_of(runs, Choice("top9"))


def test_the_line_goes_the_other_way_where_less_of_the_metric_is_better(tmp_path: Path) -> None:
    runs = load_runs([leave(tmp_path / "run")])
    section = next(s for s in sections(runs, Choice(lower=True)) if "against" in s.title)
    assert "(lower is better)" in str(section.parts[0])
    line = cells(tables(section)[0])["MACs"]
    assert line == ["prune (72.75 at 4 M); original (70.25 at 16 M)"]


def test_names_cover_neither_each_other_nor_a_point() -> None:
    spots, sizes = [(50.0, 50.0), (52.0, 50.0), (54.0, 50.0)], [(30.0, 10.0)] * 3
    places = free_places(spots, sizes, (120.0, 100.0))
    boxes = [
        (x + place[0], y + place[1], x + place[0] + 30, y + place[1] + 10)
        for (x, y), place in zip(spots, places, strict=True)
        if place is not None
    ]
    assert len(boxes) == 3
    for index, a in enumerate(boxes):
        assert not any(a[0] < x < a[2] and a[1] < y < a[3] for x, y in spots)
        for b in boxes[:index]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert free_places([(5.0, 5.0)], [(30.0, 10.0)], (20.0, 20.0)) == [None]


def test_nested_figures_become_rows_however_many_and_deep() -> None:
    deep: Any = "end"
    for _ in range(100):
        deep = {"in": deep}
    rows = rows_of({"deep": deep, "list": list(range(1000)), "long": "x" * 1000, "flag": True})
    assert [row[0].text for row in rows] == ["deep" + ".in" * 7, "list", "long", "flag"]
    assert all(len(row[1].text) < 220 for row in rows)
    assert rows[3][1].text == "yes"
    many = rows_of({str(n): n for n in range(10)}, most=4)
    assert [(row[0].text, row[1].text) for row in many[3:]] == [("3", "3"), ("…", "and 6 more")]


def test_a_panel_of_a_later_stage_has_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "_PANELS", dict(panels._PANELS))

    @panel("test.pruning", place=25)
    def pruning(runs: Any, choice: Choice) -> Section:
        parts: list[Part] = [f"{len(runs)} run by {choice.metric}"]
        return Section("Pruned & <kept>", parts)

    assert pruning([], Choice()).title == "Pruned & <kept>"
    page, _ = made(leave(tmp_path / "run"), choice=Choice("top5"))
    titles = [" ".join(word.split()) for word in page.words]
    assert titles.index("Stages, before and after") < titles.index("Pruned & <kept>")
    assert titles.index("Pruned & <kept>") < titles.index("top5 against cost")
    assert "1 run by top5" in page.text
    with pytest.raises(ConfigError, match=r"the panel 'test.pruning' is .* already"):
        panel("test.pruning")(metric_panel)


def metric_panel(runs: Any, choice: Choice) -> Section | None:
    return None


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    one, two = leave(tmp_path / "a" / "run"), leave(tmp_path / "b" / "run")
    assert [run.name for run in load_runs([one])] == ["run"]
    assert [run.name for run in load_runs([one, two])] == [str(one), str(two)]
    with pytest.raises(ConfigError, match="is given twice"):
        load_runs([one, tmp_path / "a" / ".." / "a" / "run"])


def test_ten_stages_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"s{index}" for index in range(1, 12)]
    folder = leave(tmp_path / "run", tuple(stage(name, PRUNED, PRUNED) for name in names))
    assert [report.stage for report in load_run(folder).stages] == names


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", '{"version": 1, "asked": 3}', "asked is 3; expected a mapping"),
        ("run.json", '{"version": 2}', "run.json has version 2; this release reads version 1 only"),
        ("run.json", "[1]", "holds a list; expected a JSON mapping"),
        ("run.json", "{" * 10, "cannot read"),
        ("run.json", '{"a":' * 100_000, "cannot read"),
        ("run.json", '{"asked": 1' + "0" * 5000 + "}", "cannot read"),
        ("0-original/figures.json", "{}", r"figures.json: macs: .*was it altered\?"),
        ("1-distil/report.json", '{"version": 2}', "this release reads version 1 only"),
        ("1-distil/report.json", '{"version": 1, "stage": 3}', "report.json: stage: .*found 3"),
        ("summary.json", '{"test": {"result": {"top1": "high"}}}', "result.top1: .*'high'"),
    ],
)
def test_altered_files_are_refused_by_name(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    folder = leave(tmp_path / "run")
    (folder / file).write_text(text)
    with pytest.raises(StoreError, match=message):
        load_run(folder)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pantheon.compress.run_folder.MAX_JSON", 100)
    with pytest.raises(StoreError, match="expected at most 100"):
        load_run(leave(tmp_path / "run"))


def test_without_its_packages_a_report_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = load_runs([leave(tmp_path / "run")])
    monkeypatch.setattr("pantheon.compress.report_page.page.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"jinja2 and matplotlib.*pantheon-kd\[compress\]"):
        write_page(runs, tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    runs = load_runs([leave(tmp_path / "run")])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the report into"):
        write_page(runs, tmp_path / "file")


def test_the_command_writes_beside_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    one, two = leave(tmp_path / "one"), leave(tmp_path / "two", STAGES[:2], test=None)
    done = CliRunner().invoke(app, ["report", str(one)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(one / "report.html")
    out = tmp_path / "new" / "out"
    words = ["report", str(one), str(two), "--out", str(out), "--metric", "top5", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["page"] == str(out / "report.html")
    assert sorted(map(str, out.iterdir())) == sorted([told["page"], *told["pictures"]])
    assert told["runs"] == [
        {"path": str(one), "finished": True, "stages": 3},
        {"path": str(two), "finished": False, "stages": 2},
    ]
    assert not (two / "report.html").exists()


def test_a_folder_without_a_run_ends_the_command_with_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds no run.json; expected the folder of a run" in " ".join(done.stderr.split())


def test_a_page_is_made_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pantheon.compress.report_page import *; "
        f"write_page(load_runs([__import__('pathlib').Path({str(leave(tmp_path / 'run'))!r})]), "
        f"{str(tmp_path)!r}); assert 'torch' not in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
