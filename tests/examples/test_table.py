"""The table of results, shortened: cells are trained, told, kept, and refused when they are old."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.table import train
from benchmarks.table_cells import Table
from benchmarks.table_differences import apart
from benchmarks.table_page import write
from pantheon.compress.quantize.processor import saturates
from tests.examples.readme import ROOT

SMALL = {"width": 0.125, "classes": 4}


def shortened() -> dict[str, Any]:
    """The table's settings, of few classes, views, epochs and rows."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "table.yaml").read_text())
    made["data"] |= {"classes": 4, "train": 8, "validation": 4, "test": 4}
    made |= {"batch_size": 16, "E": 2, "F": 2, "validate_every": 1, "seeds": 2}
    made["latency"]["seconds"] = 0.1
    made["student"]["model_args"] = SMALL
    made["teachers"] = {"resnet": made["teachers"]["resnet"] | {"model_args": SMALL, "epochs": 1}}
    made["rows"] = {"distil-1": made["rows"]["distil-1"]}
    return made


@pytest.fixture
def spec() -> dict[str, Any]:
    return shortened()


@pytest.fixture
def pruned(spec: dict[str, Any]) -> dict[str, Any]:
    """With a row that is pruned, of one seed more than is run, and one beside it."""
    cut = {"remove": 0.5, "one_shot": True}
    spec["rows"] |= {
        "uniform": {"seeds": 3, "prune": cut, "target": -1.0},
        "random": {
            "prune": cut | {"criterion": "random"},
            "beside": {"row": "uniform", "before": 3, "after": -0.3},
        },
        "search": {
            "search": {
                "prune": {"left": [0.25, 0.5, 0.75, 1.0]},
                "objectives": {"top1": "maximise"},
                "limits": {"macs": "50 %"},
                "trials": 3,
                "score": {"epochs": 0, "recalibrate": 16},
            },
            "beside": [{"row": other, "after": -0.3} for other in ("uniform", "random")],
        },
    }
    return spec


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where B and B+ were trained, of two seeds."""
    home = tmp_path_factory.mktemp("begun")
    table = _table(shortened(), home)
    for row in ("B", "B+"):
        for seed in range(2):
            table.run(row, seed)
    (home / "docs").mkdir()
    return home


@pytest.fixture
def home(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "home")


def _table(spec: dict[str, Any], home: Path) -> Table:
    path = home / "table.yaml"
    path.write_text(yaml.safe_dump(spec))
    return Table(path, home)


def test_new_rows_leave_records_valid_and_other_settings_do_not(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    before = _table(spec, tmp_path)
    spec["rows"]["other"] = spec["rows"]["distil-1"] | {"losses": [{"loss": "cross_entropy"}]}
    more = _table(spec, tmp_path)
    for cell in before.cells():
        assert more.digest(*cell) == before.digest(*cell)
    assert more.digest("other", 0) != more.digest("distil-1", 0)
    spec["data"]["cache"] = "elsewhere"
    assert _table(spec, tmp_path).digest("distil-1", 0) == more.digest("distil-1", 0)
    spec["data"]["train"] = 9
    fewer = _table(spec, tmp_path)
    asked = [t.pipeline("distil-1", 0)["stream"]["teachers"]["resnet"] for t in (more, fewer)]
    assert asked[0] != asked[1], "what a teacher says of other samples is another dump"
    spec["data"]["train"], spec["E"] = 8, 3
    longer = _table(spec, tmp_path)
    for cell in longer.cells():
        assert (longer.digest(*cell) == more.digest(*cell)) == (cell[0] == "resnet"), cell


def test_each_cell_comes_after_what_it_needs(spec: dict[str, Any], tmp_path: Path) -> None:
    table = _table(spec, tmp_path)
    cells = table.cells()
    assert len(set(cells)) == len(cells) == 1 + 2 * 4
    for place, cell in enumerate(cells):
        assert set(table.needs(*cell)) <= set(cells[:place])


def test_a_row_has_its_own_number_of_seeds(pruned: dict[str, Any], tmp_path: Path) -> None:
    cells = _table(pruned, tmp_path).cells()
    assert [cell for cell in cells if cell[0] == "uniform"] == [("uniform", s) for s in range(3)]
    assert len([cell for cell in cells if cell[0] == "random"]) == 2


@pytest.fixture
def quantized(spec: dict[str, Any]) -> dict[str, Any]:
    """With rows of integers: of another row's result, and trained through the rounding."""
    del spec["rows"]["distil-1"], spec["teachers"]["resnet"]
    spec["rows"] |= {
        "ptq": {"from": "B+", "epochs": 0, "quantize": {}, "target": -5.0, "size": -50},
        "qat": {"epochs": 1, "quantize": {"thresholds": "dynamic"}, "train": {"lr": 0.003}},
    }
    return spec


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_rows_of_integers_are_what_the_file_answers(quantized: dict[str, Any], home: Path) -> None:
    table = _table(quantized, home)
    cells = [(row, seed) for row in ("ptq", "qat") for seed in range(2)]
    assert set(table.missing()) - set(cells) == {("plateau", 0), ("plateau", 1)}
    for cell in cells:
        table.run(*cell)
    for row, operators in (("ptq", []), ("qat", ["Relu"])):
        record = table.record(row, 0)
        assert record is not None
        summary = json.loads((home / table.folder(row, 0) / "summary.json").read_text())
        told = record["int8"]
        assert record["top1"] == summary["test"]["int8"]["top1"]
        assert told["reduced_range"] == saturates()
        assert told["simulated"] == summary["test"]["result"]["top1"]
        assert told["agreement"] == summary["exported"]["int8"]["agreement"]
        kinds = {name.split(" of ")[0] for name in told["float_operators"]}
        assert kinds == {*operators, "ReduceMean"}
    began = table.record("ptq", 0)
    assert began is not None
    assert set(began["from"]) == {"B", "B+"}
    write(table)
    page = (home / "docs" / "results.md").read_text()
    assert re.search(r"\| ptq \| 2 \| .* % \| -\d+.\d+ % \| -50 %: \*\*\w+\*\* \| 1 Reduce", page)
    assert "trained on another machine" not in page


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_rows_are_compared_with_what_began_with_the_same_weights(
    quantized: dict[str, Any], home: Path
) -> None:
    del quantized["rows"]["qat"]
    table = _table(quantized, home)
    for seed in range(2):
        elsewhere = f"{seed}" * 64  # As it would have come out on another machine.
        for row, where in (("B", "digest"), ("B+", "from")):
            path = table.results / f"{row}-{seed}.json"
            record = json.loads(path.read_text())
            record[where] = elsewhere if where == "digest" else {"B": elsewhere}
            path.write_text(json.dumps(record))
        for row in ("B", "B+", "ptq"):
            table.run(row, seed)
        ptq = table.record("ptq", seed)
        assert ptq is not None
        own = table.record_from("B+", seed, ptq["from"]["B"])
        assert own is not None
        assert own["from"]["B"] == ptq["from"]["B"] != elsewhere
        other = table.record("B+", seed)
        assert other is not None
        assert other["from"]["B"] == elsewhere, "the first record stays"
    assert apart(table, "ptq", "B+") == []
    write(table)
    page = (home / "docs" / "results.md").read_text()
    assert "ptq began with weights of B that were trained on another machine, and are" in page


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_pruned_rows_are_told_before_and_after_training(pruned: dict[str, Any], home: Path) -> None:
    del pruned["rows"]["distil-1"], pruned["teachers"]["resnet"]
    table = _table(pruned, home)
    for cell in (("uniform", 0), ("uniform", 1)):
        table.run(*cell)
    write(table)
    page = (home / "docs" / "results.md").read_text()
    assert re.search(r"\| uniform \| .* \| -1.0 \| .* \| 2 of 3 seeds \|", page)
    assert "random beside" not in page
    for seed in range(2):
        table.run("random", seed)
        table.run("search", seed)
    write(table)
    page = (home / "docs" / "results.md").read_text()
    assert re.search(r"\| random \| .* \| none: a control \|", page)
    assert "not run yet" in page
    records = [[table.record(row, s) for s in range(2)] for row in ("random", "uniform")]
    ours, theirs = ([r["cut"]["metric"]["top1"] for r in row if r] for row in records)
    told = ", ".join(f"{a - b:+.2f}" for a, b in zip(ours, theirs, strict=True))
    assert f"random beside uniform: before training {told} points" in page
    said = re.findall(r"search beside (\w+): before training ([^;]*) After", page)
    assert [other for other, _ in said] == ["uniform", "random"]
    assert not any("asked for" in told for _, told in said)
    found = [table.record("search", seed) for seed in range(2)]
    for record in (*records[0], *found):
        assert record is not None
        assert record["after"]["macs"] == record["cut"]["macs"]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_table_is_run_told_and_gone_on_with(spec: dict[str, Any], tmp_path: Path) -> None:
    table = _table(spec, tmp_path)
    (tmp_path / "docs").mkdir()
    train(table, jobs=2)
    write(table)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "not run yet" not in page
    for told in ("4 regions of 4 photographs", "resnet leads B+ by", "2 epochs more than B+"):
        assert told in page
    assert (tmp_path / "docs" / "results.png").stat().st_size > 1000
    records = {path: json.loads(path.read_text()) for path in table.results.iterdir()}
    assert len(records) == 1 + 2 * 4
    one = records[table.results / "plateau-0.json"]
    assert (one["epochs"], one["samples"], len(one["regions"])) == (4, 4 * 4 * 8, 4)
    assert one["top1"] == pytest.approx(sum(one["regions"]) / 4)

    kept = {path: path.stat().st_mtime_ns for path in records}
    lost, folder = table.results / "B+-1.json", tmp_path / table.folder("B", 1)
    lost.unlink()
    assert table.missing() == [("B+", 1)]
    away = folder.rename(tmp_path / "away")
    assert table.missing() == [("B", 1), ("B+", 1)]
    away.rename(folder)
    train(table, jobs=2)
    for path, time in kept.items():
        assert (path.stat().st_mtime_ns == time) == (path != lost)
    told = ("digest", "from", "regions", "validation")
    again = json.loads(lost.read_text())
    assert [again[name] for name in told] == [records[lost][name] for name in told]
    assert apart(table, "distil-1", "B+") == apart(table, "distil-1", "B") == []
    lost.write_text(json.dumps(again | {"from": {"B": "another"}}))
    assert apart(table, "distil-1", "B+") == [1]

    spec["tune"] |= {"lr": 0.5}
    with pytest.raises(SystemExit, match=r"B\+-0.json is of other settings"):
        write(_table(spec, tmp_path))
