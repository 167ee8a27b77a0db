"""Tables of latencies that are measured here: by the command line, for predictions and searches."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from pantheon.cli import app
from pantheon.compress.artifact import Artifact
from pantheon.compress.latency_table.device import this_device
from pantheon.compress.latency_table.emitting import Graph
from pantheon.compress.latency_table.files import in_integers, write_net
from pantheon.compress.latency_table.fusing import operators_of
from pantheon.compress.latency_table.measuring import measured
from pantheon.compress.latency_table.operators import ATTRIBUTES, Operator
from pantheon.compress.latency_table.pace import Pace
from pantheon.compress.latency_table.precision import PRECISIONS
from pantheon.compress.latency_table.prediction import Predictor
from pantheon.compress.latency_table.table import Conditions, Table
from pantheon.compress.quantize.calibrating import calibrate
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.exported import float_operators
from pantheon.compress.quantize.fitting import rounded_by
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.spots import spots_of
from pantheon.errors import ConfigError
from pantheon.nets import mobilenet_v2
from tests.unit.test_quantize_model import Stream

CODE = """
import torch
from torch import nn



def data():
    torch.manual_seed(5)
    x = torch.randn(32, 8)
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())


def net(width=64):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, 2))


def accuracy(model, stream):
    right = sum((model(b.inputs).argmax(1) == b.targets).sum().item() for b in stream)
    return {"accuracy": 100 * right / sum(len(b.ids) for b in stream)}
"""

SEARCH = """
folder: run
space: {model: toys:net, choices: {width: [32, 64, 128, 256, 512, 1024]}}
stream:
  dataset: toys:data
  parts: {train: [0, 16], validation: [16, 32]}
  batch_size: 8
metric: toys:accuracy
objectives: {accuracy: maximise}
limits: {latency: LIMIT}
latency: {table: table.json}
strategy: random
repair: false
trials: 2
threads: 1
score:
  epochs: 1
  losses: [{loss: cross_entropy}]
  optimizer: {name: sgd, lr: 0.1}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    Path("toys.py").write_text(CODE)
    return tmp_path


def ran(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, [*arguments])
    assert done.exit_code == status, done.output
    return " ".join(done.output.split())


EVERY = """
conv 1x8x6x6 dilation=1x1 groups=1 kernel=3x3 out=16 pad=1x1 stride=2x2 + add + relu
conv 1x16x6x6 dilation=1x1 groups=16 kernel=3x3 out=16 pad=1x1 stride=1x1 + clip
conv 1x3x9 dilation=1 groups=1 kernel=3 out=5 pad=1 stride=1
conv_transpose 1x8x6x6 dilation=1x1 groups=2 kernel=2x2 more=0x0 out=4 pad=0x0 stride=2x2
linear 3x32 out=8 + relu
matmul 4x7x8,4x8x7
embedding 1x7 rows=50 width=16
batch_norm 1x16x6x6
layer_norm 1x7x32 axis=2
max_pool 1x16x6x6 kernel=3x3 pad=1x1 stride=2x2
average_pool 1x16x6x6 kernel=2x2 pad=0x0 stride=2x2
mean 1x16x6x6 axes=2x3
softmax 1x7x7 axis=2
concat 1x8x6x6,1x16x6x6 axis=1
pad 1x8x6x6 before=0x0x1x1 past=0x0x1x1
resize 1x8x6x6 factors=1x1x2x2
slice 1x8x6x6 axis=1 length=4
transpose 1x7x32 order=0x2x1
add 1x8x6x6,1x8x6x6
sub 1x7x32,1x7x32
mul 1x7x32,1
div 1x7x32,1x1x32
pow 1x7x32,1
"""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operator_can_be_measured(precision: str) -> None:
    every = [Operator.read(text) for text in EVERY.strip().splitlines()]
    rest = [kind for kind in ATTRIBUTES if kind not in {operator.kind for operator in every}]
    every += [Operator(kind, ((1, 16, 6, 6),), {}) for kind in rest]
    found = measured([every], 1, Pace(1), precision)
    assert set(found) == set(every)
    # What cuts off what no integer stands for is left out.
    free = {"relu", "clip"} if precision == "int8" else set()
    taken = {operator: t for operator, t in found.items() if t.upper or operator.kind not in free}
    assert all(0 < timing.lower <= timing.upper for timing in taken.values())


def test_what_a_quantized_model_has_as_integers_is_measured_so(tmp_path: Path) -> None:
    net, images = mobilenet_v2(width=0.25).eval(), torch.randn(1, 3, 32, 32)
    graph = Graph()
    for number, operator in enumerate(operators_of(net, images).sequence):
        graph.put(f"operator{number}", operator)
    file, own = tmp_path / "operators.onnx", tmp_path / "net.onnx"
    file.write_bytes(in_integers(graph.model(), graph.rounded, graph.feed()))
    write_net(net, images, own, "int8")
    kinds = [kinds_of(each) for each in (file, own)]
    for kind in ("QLinearConv", "QLinearAdd", "QGemm", "ReduceMean", "Conv", "Clip", "Add", "Gemm"):
        assert kinds[0][kind] == kinds[1][kind]
    assert kinds[0]["QLinearConv"] == 52
    assert [name for name, _ in float_operators(own)] == ["ReduceMean"]


def kinds_of(file: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(file.with_suffix(".optimized"))
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_a_table_of_integers(here: Path) -> None:
    Path("search.yaml").write_text(SEARCH.replace("LIMIT", "1"))
    built = ("latency", "build", "search.yaml", "--nets", "4", "--points", "60")
    Path("late.yaml").write_text(Path("search.yaml").read_text() + "needs: [none.yaml]\n")
    early = ("latency", "build", "late.yaml", "--precision", "int4")
    assert "nothing can be measured in 'int4'" in ran(*early, status=2)
    around = SEARCH.replace("LIMIT", "1").replace(
        "model: toys:net, choices: {width: [32, 64, 128, 256, 512, 1024]}", "artifact: a, bits: {}"
    )
    Path("bits.yaml").write_text(around)
    assert "no times of fewer bits" in ran("latency", "build", "bits.yaml", status=2)
    assert " int8 " in ran(*built, "--precision", "int8")
    assert "precision='float32'" in ran(*built, status=1)
    net, sample = Artifact.make("toys:net", {"width": 256}), torch.randn(1, 8)
    found = Predictor.load(Path("table.json")).predict(net.model, sample)
    assert found.measured == ()
    # One that is quantized is the same.
    quantized = rounded_by(net.model, sample)
    assert Predictor.load(Path("table.json")).predict(quantized, sample) == found
    refused = Predictor.load(Path("table.json"))
    for bits, kept, said in ((4, (), "4 bits"), (8, ("0",), "keeps .* real")):
        spots = spots_of(net.model, sample, keep=kept)
        found = calibrate(net.model, spots, Stream(sample), AbsMax)
        edit = RoundTensors(found.activations, dict.fromkeys(spots.weights, Weight(bits)))
        with pytest.raises(ConfigError, match=said):
            refused.predict(edit.apply(copy.deepcopy(net.model)), sample)
    real = Predictor(Table(Conditions(this_device())))
    with pytest.raises(ConfigError, match="is quantized, and the table is of float32"):
        real.predict(quantized, sample)


def test_what_a_table_lacks_is_measured_and_kept(here: Path) -> None:
    file = here / "table.json"
    Table(Conditions(this_device())).save(file)
    net, images = mobilenet_v2(width=0.5), torch.zeros(1, 3, 32, 32)
    first = Predictor.load(file).predict(net, images)
    wanted = set(operators_of(net, images).counts)
    assert set(first.measured) == {str(operator) for operator in wanted}
    assert set(Table.load(file).entries) == wanted
    again = Predictor.load(file).predict(net, images)
    assert (again.measured, again.milliseconds) == ((), first.milliseconds)


@pytest.mark.timeout(180)
def test_a_search_trains_nothing_that_its_table_says_takes_too_long(here: Path) -> None:
    Path("search.yaml").write_text(SEARCH.replace("LIMIT", "1"))
    # It has no table yet, which building makes.
    assert "there is no table table.json" in ran("search", "search.yaml", status=2)
    said = ran("latency", "build", "search.yaml", "--nets", "4", "--points", "60")
    assert re.search(r"calibrated on 4 nets|error not known", said)
    made = Table.load(Path("table.json"))
    assert len(made.entries) == 6 * 3
    # Built again, nothing is left to be measured.
    before = Path("table.json").read_bytes()
    ran("latency", "build", "search.yaml", "--nets", "4", "--points", "60")
    assert Path("table.json").read_bytes() == before

    times = {}
    for width in (32, 64, 128, 256, 512, 1024):
        Artifact.make("toys:net", {"width": width}).save(f"net-{width}")
        told = ran("latency", "predict", "table.json", f"net-{width}", "--input", "8", "--json")
        times[width] = json.loads(told)["milliseconds"]
        assert json.loads(told)["measured"] == []
    assert times[1024] == max(times.values())
    limit = (sorted(times.values())[2] + sorted(times.values())[3]) / 2
    Path("search.yaml").write_text(SEARCH.replace("LIMIT", repr(limit)))
    ran("search", "search.yaml", "--json")
    import optuna

    study = optuna.load_study(study_name="search", storage="sqlite:///run/search.db")
    costs = {t.number: t.user_attrs["costs"]["latency"] for t in study.trials}
    trained = [t.number for t in study.trials if "found" in t.user_attrs]
    assert len(trained) == 2
    assert all(costs[number] <= limit for number in trained)
    for trial in study.trials:
        assert costs[trial.number] == pytest.approx(times[trial.user_attrs["chosen"]["width"]])
    # Workers with another table are not of this search.
    name, net = next(iter(made.nets.items()))
    again = replace(net, milliseconds=net.milliseconds * (1 + 1e-9))
    replace(made, nets={**made.nets, name: again}).save(Path("table.json"))
    assert "has latency" in ran("search", "search.yaml", status=1)


def test_a_search_with_a_table_of_another_device(here: Path) -> None:
    rows = "lite\tphone\t2020\n" + "".join(
        f"conv,0,{relu},1,{i},1,1,{o},1,1,0,1,1\t0.5\n"
        for width in (32, 64, 128, 256, 512, 1024)
        for relu, i, o in ((1, 8, width), (1, width, width), (0, width, 2))
    )
    Path("table.txt").write_text(rows + "prelu,1,8,4,4\t0.5\n")
    said = ran("latency", "import", "table.txt", "--out", "table.json")
    assert "no place in a table: 1 of prelu" in said
    assert "error not known" in said
    assert "there already" in ran("latency", "import", "table.txt", "--out", "table.json", status=2)
    Path("search.yaml").write_text(SEARCH.replace("LIMIT", "1.6"))
    refused = ran("search", "search.yaml", status=1)
    assert "search.yaml:" in refused
    assert re.search("another device .processor: 'phone' there", refused)
    Path("search.yaml").write_text(
        SEARCH.replace("LIMIT", "1.6").replace("table.json}", "table.json, other_device: true}")
    )
    assert json.loads(ran("search", "search.yaml", "--json"))["trials"]["scored"] == 2
    without = SEARCH.replace("LIMIT", "1.6").replace("latency: {table: table.json}\n", "")
    Path("search.yaml").write_text(without)
    assert "there is no table to predict it from" in ran("search", "search.yaml", status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("build --out t.json", "name a search, or spaces by --net"),
        ("build --net resnet18 --input 3x32x32", "say where the table goes"),
        ("build --net resnet18 --out t.json", "--input is None"),
        ("build --net resnet --input 3x32x32 --out t.json", "no ready-made space 'resnet'"),
        ("build --net resnet18 --input 3x-1 --out t.json", "--input is 3x-1"),
        ("show t.json", "there is no table t.json"),
        ("import t.txt --out t.json", "there is no file t.txt"),
    ],
)
def test_commands_that_cannot_be(here: Path, arguments: str, said: str) -> None:
    assert said in ran("latency", *arguments.split(), status=2)
