"""The table of results, shortened: cells are trained, told, kept, and refused when they are old."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.table import train
from benchmarks.table_cells import Table
from benchmarks.table_page import write
from tests.examples.readme import ROOT

SMALL = {"width": 0.125, "classes": 4}


@pytest.fixture
def spec() -> dict[str, Any]:
    """The table's settings, of few classes, views, epochs and rows."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "table.yaml").read_text())
    made["data"] |= {"classes": 4, "train": 8, "validation": 4, "test": 4}
    made |= {"batch_size": 16, "E": 2, "F": 2, "validate_every": 1}
    made["latency"]["seconds"] = 0.1
    made["student"]["model_args"] = SMALL
    made["teachers"] = {"resnet": made["teachers"]["resnet"] | {"model_args": SMALL, "epochs": 1}}
    made["rows"] = {"distil-1": made["rows"]["distil-1"]}
    return made


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
    for cell in before.cells(2):
        assert more.digest(*cell) == before.digest(*cell)
    assert more.digest("other", 0) != more.digest("distil-1", 0)
    spec["E"] = 3
    longer = _table(spec, tmp_path)
    for cell in longer.cells(2):
        assert (longer.digest(*cell) == more.digest(*cell)) == (cell[0] == "resnet"), cell


def test_each_cell_comes_after_what_it_needs(spec: dict[str, Any], tmp_path: Path) -> None:
    table = _table(spec, tmp_path)
    cells = table.cells(3)
    assert len(set(cells)) == len(cells) == 1 + 3 * 4
    for place, cell in enumerate(cells):
        assert set(table.needs(*cell)) <= set(cells[:place])


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_table_is_run_told_and_gone_on_with(
    spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _table(spec, tmp_path)
    (tmp_path / "docs").mkdir()
    train(table, seeds=2, jobs=2)
    write(table)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "not run yet" not in page
    for told in ("resnet leads B+ by", "2 epochs more than B+"):
        assert told in page
    assert (tmp_path / "docs" / "results.png").stat().st_size > 1000
    records = {path: json.loads(path.read_text()) for path in table.results.iterdir()}
    assert len(records) == 1 + 2 * 4
    one = records[table.results / "plateau-0.json"]
    assert (one["epochs"], one["samples"], len(one["regions"])) == (4, 4 * 4 * 8, 4)
    assert one["top1"] == pytest.approx(sum(one["regions"]) / 4)

    kept = {path: path.stat().st_mtime_ns for path in records}
    lost = table.results / "B+-1.json"
    lost.unlink()
    for row in ("B", "B+"):
        shutil.rmtree(tmp_path / table.folder(row, 1))
    assert table.missing(2) == [("B", 1), ("B+", 1)]
    train(table, seeds=2, jobs=2)
    for path, time in kept.items():
        assert (path.stat().st_mtime_ns == time) == (path != lost)
    told = ("digest", "regions", "validation")
    again = json.loads(lost.read_text())
    assert [again[name] for name in told] == [records[lost][name] for name in told]
    assert "other weights" not in capsys.readouterr().out

    spec["tune"] |= {"lr": 0.5}
    with pytest.raises(SystemExit, match=r"B\+-0.json is of other settings"):
        write(_table(spec, tmp_path))
