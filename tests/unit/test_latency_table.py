"""Tables of latencies: operators, what a file may hold, other devices, lines and sums."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.latency_table import building
from pantheon.compress.latency_table.building import Builder, Named, points
from pantheon.compress.latency_table.calibration import calibrated
from pantheon.compress.latency_table.device import this_device
from pantheon.compress.latency_table.fusing import Operators, operators_of
from pantheon.compress.latency_table.measuring import Timing
from pantheon.compress.latency_table.operators import Operator
from pantheon.compress.latency_table.paddleslim import parsed, read_paddleslim
from pantheon.compress.latency_table.prediction import Predictor
from pantheon.compress.latency_table.table import Conditions, Net, Table
from pantheon.compress.search.factory_space import FactorySpace
from pantheon.compress.search.space import Choice
from pantheon.errors import CompressionError, ConfigError, MismatchError
from pantheon.nets import mobilenet_v2, resnet18

LINEAR = Operator.read("linear 1x4 out=2")
RELU = Operator.read("relu 1x2")


def texts(found: Operators) -> dict[str, int]:
    return {str(operator): count for operator, count in found.counts.items()}


def table(**times: float) -> Table:
    """A table of this device."""
    entries = {LINEAR: times.get("linear", 2.0), RELU: times.get("relu", 0.5)}
    timings = {operator: Timing(time, time, time, 9) for operator, time in entries.items()}
    return Table(Conditions(this_device()), timings)


def calibrated_table() -> Table:
    """One whose nets take twice the sum and a millisecond."""
    nets = {f"net {n}": Net(1 + 2 * (2.0 * n + 0.5), {LINEAR: n, RELU: 1}) for n in range(1, 8)}
    return table().extended(nets=nets)


class Residual(nn.Module):
    """A block beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.norm(self.conv(images)))


def test_norms_activations_and_shortcuts_are_part_of_the_convolution() -> None:
    found = texts(operators_of(nn.Sequential(Residual(), Residual()), torch.zeros(2, 8, 4, 4)))
    text = "conv 2x8x4x4 dilation=1x1 groups=1 kernel=3x3 out=8 pad=1x1 stride=1x1 + add + relu"
    assert found == {text: 2}


def test_what_others_read_too_is_not_fused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            made = self.conv(images)
            return torch.relu(made), made

    kinds = [op.kind for op in operators_of(Twice(), torch.zeros(1, 3, 4, 4)).counts]
    assert kinds == ["conv", "relu"]


def test_nets_of_the_papers_consist_of_known_operators_only() -> None:
    for net, count in ((mobilenet_v2(), 54), (resnet18(), 23)):
        found = operators_of(net, torch.zeros(1, 3, 64, 64))
        assert not found.unknown
        assert sum(found.counts.values()) == count
        for operator in found.counts:
            assert Operator.read(str(operator)) == operator


def test_a_transformer_consists_of_products_and_what_is_between() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    found = operators_of(layer, torch.zeros(1, 7, 32))
    assert not found.unknown
    kinds = {operator.kind for operator in found.counts}
    assert {"linear", "matmul", "softmax", "layer_norm", "add"} <= kinds


def test_an_operation_without_an_operator_is_named() -> None:
    class Sorted(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return given.sort().values

    found = operators_of(Sorted(), torch.zeros(1, 4))
    assert found.unknown == ("sort",)
    with pytest.raises(CompressionError, match="no operator is known for sort"):
        Predictor(table()).predicted(found)


def test_what_a_table_writes_it_reads(tmp_path: Path) -> None:
    many = Operator("concat", ((1, 48, 14, 14),) * 40, {"axis": (1,)})
    table = Table(Conditions(this_device())).extended({many: Timing(1.0, 1.0, 1.0, 9)})
    table.save(tmp_path / "table.json")
    assert Table.load(tmp_path / "table.json") == table
    with pytest.raises(ConfigError, match="256 shapes"):
        Operator("concat", ((1, 1, 1, 1),) * 257, {"axis": (1,)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linear",
        "linear 1x4",
        "linear 1x4 out=2 out=2x",
        "linear 1x4 in=2 out=2",
        "lineal 1x4 out=2",
        "linear 1x4 out=2 + sort",
        "relu 1x2 " + "x" * 500,
        "relu 1x9999999999",
        "relu ",
        "relu 1x2\n",
        "relu -1x2",
        "linear 1 out=2",
        "linear 1x65536 out=65536",
        "embedding 1x7 rows=65536 width=65536",
        "conv 1x8x6x6 dilation=1x1 groups=0 kernel=3x3 out=16 pad=1x1 stride=2x2",
        "conv 1x8x6x6 dilation=1x1 groups=1 kernel=3x3 out=16 pad=1x1 stride=0x2",
        "conv 1x8x6x6 dilation=1x1 groups=1 kernel=3 out=16 pad=1x1 stride=2x2",
        "conv 1x8x6x6 dilation=1x1 groups=1 kernel=9999x9999 out=9999 pad=1x1 stride=2x2",
        "max_pool 1x8 kernel=3x3 pad=1x1 stride=2x2",
    ],
)
def test_texts_that_are_no_operators(text: str) -> None:
    with pytest.raises(ConfigError):
        Operator.read(text)


def test_a_table_is_the_same_after_its_file(tmp_path: Path) -> None:
    made = calibrated_table()
    made.save(tmp_path / "table.json")
    assert Table.load(tmp_path / "table.json") == made


def _without(told: dict[str, Any], *place: str) -> dict[str, Any]:
    inner = told
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return told


def _with(told: dict[str, Any], value: Any, *place: str) -> dict[str, Any]:
    inner = told
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: _without(t, "nets"), "no key 'nets'"),
        (lambda t: _with(t, 1, "more"), "unknown key 'more'"),
        (lambda t: _with(t, 2, "version"), "version 2; expected"),
        (lambda t: _with(t, 0, "conditions", "threads"), "expected 1 or more"),
        (lambda t: _with(t, "1", "conditions", "batch"), "conditions.batch is '1'"),
        (
            lambda t: _with(t, "INT8", "conditions", "precision"),
            "measured in 'INT8'",
        ),
        (lambda t: _without(t, "conditions", "device", "system"), "no key 'system'"),
        (lambda t: _with(t, [1.0], "operators", "relu 1x2"), "relu 1x2.*expected .time"),
        (lambda t: _with(t, [-1, 0, 0, 9], "operators", "relu 1x2"), "relu 1x2' takes -1"),
        (lambda t: _with(t, [1e999, 0, 0, 9], "operators", "relu 1x2"), "takes inf"),
        (lambda t: _with(t, [1, 1, 1, 9], "operators", "sort 1x2"), "no operator 'sort'"),
        (lambda t: _without(t, "operators", "relu 1x2"), "net 'net 1' has 'relu 1x2'"),
        (lambda t: _with(t, 0, "nets", "net 1", "milliseconds"), "'net 1': a net takes 0"),
        (
            lambda t: _with(t, 10**9, "nets", "net 1", "operators", "relu 1x2"),
            "1000000001 operators; expected",
        ),
        (lambda t: [t], "the table is"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, change: Any, said: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(change(calibrated_table().to_json())))
    with pytest.raises(ConfigError, match=rf"table\.json is no table of latencies: .*{said}"):
        Table.load(file)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    with pytest.raises(ConfigError, match="there is no table"):
        Table.load(file)
    for data in (b"\xff\xfe", b"{", b"[" * 200_000):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match="no table of latencies"):
            Table.load(file)
    file.write_bytes(b" " * ((64 << 20) + 1))
    with pytest.raises(ConfigError, match="more than 64 MB"):
        Table.load(file)


def test_a_line_is_found_and_says_how_far_it_is_off() -> None:
    totals, counts = [1.0, 2.0, 4.0, 8.0, 16.0, 9.0], [3, 50, 9, 30, 20, 60]
    exact = [1.5 * t + 0.01 * c for t, c in zip(totals, counts, strict=True)]
    found = calibrated(totals, counts, exact)
    assert (found.slope, found.each) == pytest.approx((1.5, 0.01))
    assert found.error == pytest.approx(0, abs=1e-9)
    # Nets that nothing tells of are told by a larger error, not by a part of the line.
    noisy = [each * (1.2 if n % 2 else 0.8) for n, each in enumerate(exact)]
    assert calibrated(totals, counts, noisy).error > 0.2
    with pytest.raises(CompressionError, match="3 nets are too few"):
        calibrated(totals[:3], counts[:3], exact[:3])


def test_a_prediction_is_the_sum_on_the_line_with_its_error() -> None:
    net = nn.Sequential(nn.Linear(4, 2, bias=False))
    plain = Predictor(table()).predict(net, torch.zeros(1, 4))
    assert (plain.milliseconds, plain.error, plain.within) == (2.0, None, False)
    made = Predictor(calibrated_table())
    found = made.predicted(Operators((LINEAR, LINEAR, LINEAR, RELU)))
    assert found.milliseconds == pytest.approx(1 + 2 * 6.5)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.operators == 4
    assert found.within
    assert not made.predicted(Operators((LINEAR,) * 9 + (RELU,))).within


def elsewhere() -> Table:
    """A table of another device."""
    other = replace(this_device(), processor="another one", runtime="onnxruntime 0.1")
    return Table(replace(table().conditions, device=other), table().entries)


def test_what_is_fused_may_be_known_by_its_parts_only() -> None:
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    predictor = Predictor(elsewhere(), other=True)
    assert predictor.predict(net, torch.zeros(1, 4)).milliseconds == 2.5


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 rows, and the table is of batches of 1"):
        Predictor(table()).predict(nn.Linear(4, 2), torch.zeros(3, 4))


def test_a_table_of_another_device_is_refused_unless_told(tmp_path: Path) -> None:
    elsewhere().save(tmp_path / "table.json")
    with pytest.raises(MismatchError, match=r"table\.json.*processor: 'another one' .*runtime: "):
        Predictor.load(tmp_path / "table.json")
    told = Predictor.load(tmp_path / "table.json", other=True)
    assert told.predict(nn.Linear(4, 2), torch.zeros(1, 4)).milliseconds == 2.0
    # It cannot be measured here.
    with pytest.raises(CompressionError, match=r"lacks 1 operators.*another device.*1x4 out=3"):
        told.predict(nn.Linear(4, 3), torch.zeros(1, 4))


ROWS = """
conv,0,1,1,8,4,4,16,1,3,1,2,1\t1.5
conv,0,0,1,512,1,1,10,1,1,0,1,1\t0.25
relu6,1,8,4,4\t0.125
eltwise,2,1,8,4,4\t0.5
eltwise,3,1,8,4,4\t0.5
pooling,1,1,8,4,4,7,0,1,0,3\t0.0625
pooling,0,1,8,4,4,2,0,2,0,1\t0.0625
batch_norm,None,1,8,4,4\t0.75
softmax,-1,1,8,1,1\t0.5
prelu,1,8,4,4\t0.5
conv,0,0,1,8,4,4,16,1,3,1,2,1,5\t1.5
"""


@pytest.mark.parametrize("head", ["lite 2.3\tphone\t2020", "phone,lite 2.3,2020"])
def test_a_table_of_paddleslims_is_read(head: str) -> None:
    found = parsed((head + ROWS).splitlines())
    device = found.table.conditions.device
    assert (device.processor, device.runtime) == ("phone", "lite 2.3, 2020")
    assert {str(operator): timing.time for operator, timing in found.table.entries.items()} == {
        "conv 1x8x4x4 dilation=1x1 groups=1 kernel=3x3 out=16 pad=1x1 stride=2x2 + relu": 1.5,
        "conv 1x512x1x1 dilation=1x1 groups=1 kernel=1x1 out=10 pad=0x0 stride=1x1": 0.25,
        "linear 1x512 out=10": 0.25,
        "clip 1x8x4x4": 0.125,
        "add 1x8x4x4,1x8x4x4": 0.5,
        "mean 1x8x4x4 axes=2x3": 0.0625,
        "max_pool 1x8x4x4 kernel=2x2 pad=0x0 stride=2x2": 0.0625,
        "batch_norm 1x8x4x4": 0.75,
        "softmax 1x8x1x1 axis=3": 0.5,
    }
    assert found.left == {"eltwise": 1, "prelu": 1, "conv": 1}
    # A net that the table was written for is the sum of its look-ups.
    net = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    predicted = Predictor(found.table, other=True).predict(net, torch.zeros(1, 8, 4, 4))
    assert (predicted.milliseconds, predicted.error) == (1.5, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("phone", "line 1 is 'phone'"),
        ("a,b,c\nrelu,1,8,4,4 0.5", "line 2 .*expected an operator, a tab"),
        ("a,b,c\nrelu,1,8,4,4\tfast", "line 2: the latency is 'fast'"),
        ("a,b,c\nrelu,1,8,4,4\tnan", "line 2: the latency is 'nan'"),
        ("a,b,c\nrelu,1,8,4\t0.5", "line 2: relu .*expected 4 numbers"),
        ("a,b,c\nrelu,1,8,4,many\t0.5", "line 2: relu"),
        ("a,b,c\nrelu,1,8,4,0\t0.5", "line 2: relu .*1 or more"),
        ("a,b,c\nconv,0,0,1,8,4,4,16,0,3,1,2,1\t1", "line 2: conv .*sizes of 1 or more"),
    ],
)
def test_texts_that_are_no_tables_of_paddleslims(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "table.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"table\.txt: .*{said}"):
        read_paddleslim(file)


def once(sets: Any, threads: int, pace: Any, precision: str) -> dict[Operator, Timing]:
    return {op: Timing(1.0, 1.0, 1.0, 9) for some in sets for op in some}


def test_a_table_that_is_half_built_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def timed(nets: Any, threads: int, pace: Any, precision: str) -> dict[str, float]:
        asked.extend(net.name for net in nets)
        return {net.name: 1.5 for net in nets}

    monkeypatch.setattr(building, "whole", timed)
    monkeypatch.setattr(building, "measured", once)
    every = [Named(f"net {n}", partial(nn.Linear, 4, n), torch.zeros(1, 4)) for n in range(1, 7)]
    file = tmp_path / "table.json"
    Builder(file).calibrate(every[:2])
    assert asked == ["net 1", "net 2"]
    # As if it had been killed here: what it measured is in the file.
    Builder(file).calibrate(every)
    assert asked == [net.name for net in every]
    assert set(Table.load(file).nets) == set(asked)
    with pytest.raises(MismatchError, match="give it another name"):
        Builder(file, batch=2)
    with pytest.raises(MismatchError, match="precision='float32'"):
        Builder(file, precision="int8")
    with pytest.raises(ConfigError, match="the nearest are 'int8'"):
        Builder(file, precision="int9")


def test_a_space_is_covered_once_points_bring_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []

    def timed(sets: Any, threads: int, pace: Any, precision: str) -> dict[Operator, Timing]:
        times.append(len(sets))
        return once(sets, threads, pace, precision)

    monkeypatch.setattr(building, "measured", timed)
    args, choices = {"in_features": 4}, (Choice("out_features", tuple(range(1, 30))),)
    space = FactorySpace("torch.nn:Linear", args, choices)
    builder = Builder(tmp_path / "table.json")
    builder.cover(points(space, "line", torch.zeros(1, 4)))
    assert len(builder.table.entries) == 29
    # Again there is nothing to measure.
    done = len(times)
    Builder(tmp_path / "table.json").cover(points(space, "line", torch.zeros(1, 4)))
    assert len(times) == done
