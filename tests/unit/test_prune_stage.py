"""The pruning stage: what is asked for is what is left, however often it is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pantheon import SampleStream, Term
from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.macs import macs
from pantheon.compress.prune.analysis import AnalyseSensitivity
from pantheon.compress.prune.cutting import Ranked
from pantheon.compress.prune.scanning import Scan
from pantheon.compress.prune.stage import Prune
from pantheon.compress.stage import Outcome, Work
from pantheon.compress.watcher import Watcher
from pantheon.config import OptimizerConfig
from pantheon.errors import CompressionError, ConfigError, ResumeMismatch
from pantheon.stream import Parts

NET = "tests.unit.test_prune_stage:net"
SIZE = 64
IMAGE = torch.zeros(1, 3, 6, 6)


def net() -> nn.Module:
    torch.manual_seed(7)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


def data() -> TensorDataset:
    torch.manual_seed(3)
    images = torch.randn(SIZE, 3, 6, 6)
    return TensorDataset(images, images.mean((2, 3)).argmax(1))


class Stopped(Exception):
    """The process that ran the stage is gone."""


class Stopping(Watcher):
    """Stops when it was told something so many times."""

    def __init__(self, after: int | None = None) -> None:
        self.left, self.said = after, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)
        self._count()

    def step(self, step: Any) -> None:
        self._count()

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stopped


def loss_of(model: nn.Module, stream: Any) -> Mapping[str, float]:
    found = [nn.functional.cross_entropy(model(b.inputs), b.targets) for b in stream]
    return {"goodness": 10 - float(torch.stack(found).mean())}


def work(folder: Path, watcher: Watcher | None = None, metric: Any = loss_of) -> Work:
    stream = SampleStream(data(), 16)
    parts = Parts(stream, SampleStream(data(), 16))
    folder.mkdir(exist_ok=True)
    return Work(folder, parts, metric=metric, seed=5, watcher=watcher or Watcher())


def run(stage: Any, folder: Path, watcher: Watcher | None = None, metric: Any = loss_of) -> Outcome:
    found: Outcome = stage.run(Artifact.make(NET), work(folder, watcher, metric))
    return found


def ranked(criterion: str = "l1", **settings: Any) -> Ranked:
    return Ranked.by(criterion, **settings)


def left_of(outcome: Outcome) -> float:
    return macs(outcome.artifact.model, IMAGE).total / macs(net(), IMAGE).total


TRAINED = Distil(
    losses=[Term("labels", nn.functional.cross_entropy)],
    epochs=1,
    optimizer=OptimizerConfig(name="sgd", lr=0.05),
    every=1,
)
LABELS = [Term("labels", nn.functional.cross_entropy)]


@pytest.mark.parametrize("strategy", ["uniform", "global", "energy", "sensitivity"])
@pytest.mark.parametrize("criterion", ["l1", "fpgm", "bn_scale", "lamp", "taylor", "random"])
def test_every_strategy_comes_to_the_macs_that_are_asked_for(
    criterion: str, strategy: str, tmp_path: Path
) -> None:
    stage = Prune(
        ranked=ranked(criterion),
        strategy=strategy,
        remove=0.5,
        losses=LABELS,
        samples=32,
        scan=Scan(ratios=(0.3, 0.6, 0.9)),
    )
    outcome = run(stage, tmp_path / "run")
    assert left_of(outcome) == pytest.approx(0.5, abs=0.05)
    told = outcome.figures["pruning"]["cycles"][0]
    assert told["left"] == left_of(outcome)
    layers = dict(outcome.artifact.model.named_modules())
    for path, (before, after) in told["widths"].items():
        assert layers[path].out_channels == after <= before  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("of", ["parameters", "bytes"])
def test_other_costs_are_reached_too(of: Any, tmp_path: Path) -> None:
    outcome = run(Prune(ranked=ranked(), remove=0.4, of=of), tmp_path / "run")
    whole, found = (
        sum(t.numel() for t in (m.parameters() if of == "parameters" else m.state_dict().values()))
        for m in (net(), outcome.artifact.model)
    )
    assert found / whole == pytest.approx(0.6, abs=0.04)


def test_a_target_of_latency_is_reached_by_the_times_that_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def timed(pair: Mapping[str, Any], **how: Any) -> Any:
        # A machine on which a forward takes a nanosecond for each parameter.
        asked.append(how)
        times = {k: sum(p.numel() for p in each.model.parameters()) for k, each in pair.items()}
        return SimpleNamespace(
            ratios={"pruned": SimpleNamespace(median=times["pruned"] / times["whole"])}
        )

    monkeypatch.setattr("pantheon.compress.prune.costs.compare_latency", timed)
    outcome = run(Prune(ranked=ranked(), remove=0.4, of="latency"), tmp_path / "run")
    whole, found = (sum(p.numel() for p in m.parameters()) for m in (net(), outcome.artifact.model))
    assert found / whole == pytest.approx(0.6, abs=0.05)
    assert all(how == {"threads": 1, "seconds": 0.5} for how in asked)


def test_layers_lose_what_their_patterns_say(tmp_path: Path) -> None:
    stage = Prune(ranked=ranked(keep=["0"]), ratios={"3": 0.5, "[67]": 0.25})
    model = run(stage, tmp_path / "run").artifact.model
    assert [model.get_submodule(p).weight.shape[0] for p in ("0", "3", "6")] == [16, 12, 24]


def test_in_all_cycles_together_layers_lose_what_their_ratios_say(tmp_path: Path) -> None:
    stage = Prune(ranked=ranked(), remove=0.6, ratios={"3": 0.5}, cycles=2, distil=TRAINED)
    outcome = run(stage, tmp_path / "run")
    assert outcome.artifact.model.get_submodule("3").weight.shape[0] == 12
    assert left_of(outcome) == pytest.approx(0.4, abs=0.05)


def test_a_ratio_is_not_cut_short_by_what_others_may_lose_at_most(tmp_path: Path) -> None:
    model = run(Prune(ranked=ranked(most=0.5), ratios={"6": 0.75}), tmp_path / "run").artifact.model
    assert model.get_submodule("6").weight.shape[0] == 8


def test_what_layers_must_lose_counts_towards_the_target(tmp_path: Path) -> None:
    outcome = run(Prune(ranked=ranked(), remove=0.5, ratios={"3": 0.25}), tmp_path / "run")
    assert outcome.artifact.model.get_submodule("3").weight.shape[0] == 18
    assert left_of(outcome) == pytest.approx(0.5, abs=0.05)


def test_only_some_layers_lose_channels(tmp_path: Path) -> None:
    stage = Prune(ranked=ranked(only=["6"]), remove=0.2)
    outcome = run(stage, tmp_path / "run")
    told = outcome.figures["pruning"]["cycles"][0]
    assert list(told["widths"]) == ["6"]
    assert told["excluded"]["0"] == "not among those that are to lose channels"


def test_what_is_left_is_aligned(tmp_path: Path) -> None:
    model = run(Prune(ranked=ranked(align=8), remove=0.5), tmp_path / "run").artifact.model
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert widths != [16, 24, 32]


def test_batch_norms_are_measured_anew_and_nothing_else_changes(tmp_path: Path) -> None:
    plain = run(Prune(ranked=ranked(), remove=0.5, recalibrated=False), tmp_path / "plain")
    other = run(Prune(ranked=ranked(), remove=0.5), tmp_path / "other")
    changed = {
        name
        for name, tensor in plain.artifact.model.state_dict().items()
        if not torch.equal(tensor, other.artifact.model.state_dict()[name])
    }
    assert changed
    assert all("running" in name or "num_batches" in name for name in changed)


def test_cycles_cut_by_equal_factors_and_train_after_each(tmp_path: Path) -> None:
    stage = Prune(ranked=ranked(), remove=0.75, cycles=2, distil=TRAINED)
    outcome = run(stage, tmp_path / "run")
    lefts = [cycle["left"] for cycle in outcome.figures["pruning"]["cycles"]]
    assert lefts == pytest.approx([0.5, 0.25], abs=0.05)
    assert [epoch.samples for epoch in outcome.history] == [SIZE, SIZE]
    assert outcome.samples == 2 * SIZE + 2 * SIZE  # trained, and for batch norms


def stopped_at_every_point(make: Callable[[], Any], folder: Path, metric: Any = loss_of) -> int:
    """Stop a stage after 0, 1, 2, … things that it says or does, and go on each time once more."""
    whole = run(make(), folder / "whole", metric=metric).artifact.digest()
    for after in range(1000):
        here = folder / str(after)
        try:
            found = run(make(), here, Stopping(after), metric)
        except Stopped:
            found = run(make(), here, metric=metric)
            assert found.artifact.digest() == whole, after
            continue
        assert found.artifact.digest() == whole
        return after
    raise AssertionError("it never ended")


@pytest.mark.timeout(180)
def test_a_stage_stopped_anywhere_in_its_cycles_ends_with_the_same_bits(tmp_path: Path) -> None:
    def make() -> Prune:
        return Prune(ranked=ranked(), remove=0.75, cycles=2, distil=TRAINED)

    # Two cycles, each said to begin and to be cut, with an epoch of four steps.
    assert stopped_at_every_point(make, tmp_path) > 10


def test_sensitivity_stopped_anywhere_measures_no_point_twice(tmp_path: Path) -> None:
    measured: list[int] = []

    def metric(model: nn.Module, stream: Any) -> Mapping[str, float]:
        measured.append(sum(p.numel() for p in model.parameters()))
        return loss_of(model, stream)

    stage = AnalyseSensitivity(ranked=ranked(), scan=Scan(by="goodness", ratios=(0.2, 0.5)))
    whole = run(stage, tmp_path / "whole", metric=metric)
    table = whole.figures["pruning"]["sensitivity"]
    assert [len(points) for points in table["points"].values()] == [2, 2, 2]
    once = sorted(measured)
    measured.clear()
    with pytest.raises(Stopped):
        run(stage, tmp_path / "run", Stopping(2), metric)
    again = run(stage, tmp_path / "run", metric=metric)
    assert sorted(measured) == once
    assert again.figures == whole.figures


def test_two_workers_measure_half_each_and_the_table_is_the_same(tmp_path: Path) -> None:
    def analyse(folder: Path, **scan: Any) -> dict[str, Any]:
        stage = AnalyseSensitivity(ranked=ranked(), scan=Scan(ratios=(0.2, 0.5), **scan))
        found: dict[str, Any] = run(stage, folder).figures["pruning"]["sensitivity"]
        return found

    alone = analyse(tmp_path / "alone")
    first = analyse(tmp_path / "first", part=(0, 2))
    second = analyse(tmp_path / "second", part=(1, 2))
    assert not first["points"].keys() & second["points"].keys()
    tables = [tmp_path / name / "sensitivity.json" for name in ("first", "second")]
    watcher = Stopping()
    stage = Prune(
        ranked=ranked(),
        strategy="sensitivity",
        remove=0.5,
        scan=Scan(ratios=(0.2, 0.5), tables=tables),
    )
    # Both ratios are cut at half at most, so that less than all can go.
    outcome = stage.run(
        Artifact.make(NET), replace(work(tmp_path / "prune", watcher), seed=7)
    )  # Another stage has another seed.
    merged = outcome.figures["pruning"]["cycles"][0]["sensitivity"]
    assert merged["points"] == alone["points"]
    assert not [text for text in watcher.said if text.startswith("sensitivity")]


def test_workers_that_ranked_otherwise_do_not_share(tmp_path: Path) -> None:
    run(AnalyseSensitivity(ranked=ranked("l1"), scan=Scan(ratios=(0.5,))), tmp_path / "one")
    tables = [tmp_path / "one" / "sensitivity.json"]
    scan = Scan(ratios=(0.5,), tables=tables)
    with pytest.raises(ResumeMismatch, match="order: "):
        run(AnalyseSensitivity(ranked=ranked("l1", align=4), scan=scan), tmp_path / "other")


def test_later_cycles_measure_anew_what_workers_measured_for_the_first(tmp_path: Path) -> None:
    scan = Scan(ratios=(0.3, 0.6, 0.9))
    run(AnalyseSensitivity(ranked=ranked(), scan=scan), tmp_path / "worker")
    tables = [tmp_path / "worker" / "sensitivity.json"]
    stage = Prune(
        ranked=ranked(),
        strategy="sensitivity",
        remove=0.7,
        scan=replace(scan, tables=tables),
        cycles=2,
        distil=TRAINED,
    )
    watcher = Stopping()
    outcome = run(stage, tmp_path / "run", watcher)
    assert left_of(outcome) == pytest.approx(0.3, abs=0.05)
    assert len([text for text in watcher.said if text.startswith("sensitivity")]) == 9


def test_a_metric_of_the_other_direction_is_found_out(tmp_path: Path) -> None:
    def error(model: nn.Module, stream: Any) -> Mapping[str, float]:
        return {"error": 15_000 - sum(p.numel() for p in model.parameters())}

    higher, lower = (
        AnalyseSensitivity(ranked=ranked(), scan=Scan(ratios=(0.9,), lower=lower))
        for lower in (False, True)
    )
    with pytest.raises(ConfigError, match="say lower_is_better: true"):
        run(higher, tmp_path / "higher", metric=error)
    outcome = run(lower, tmp_path / "lower", metric=error)
    points = outcome.figures["pruning"]["sensitivity"]["points"]
    assert all(loss > 0.1 for found in points.values() for _, loss in found)


def test_losses_on_layers_drive_a_criterion(tmp_path: Path) -> None:
    def narrow(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return features.flatten(1).square().mean()

    losses = [Term("narrow", narrow, layer="5")]
    stage = Prune(ranked=ranked("taylor"), remove=0.3, losses=losses, samples=32)
    stage.check(net())
    assert left_of(run(stage, tmp_path / "run")) == pytest.approx(0.7, abs=0.05)
    wrong = Prune(ranked=ranked("taylor"), remove=0.3, losses=[Term("n", narrow, layer="55")])
    with pytest.raises(ConfigError, match=r"stage 'prune', loss 'n': .* no module '55'"):
        wrong.check(net())


def test_without_labels_it_is_measured_by_divergence(tmp_path: Path) -> None:
    stage = AnalyseSensitivity(ranked=ranked(), scan=Scan(by="kl", ratios=(0.5,)))
    table = run(stage, tmp_path / "run", metric=None).figures["pruning"]["sensitivity"]
    assert (table["by"], table["base"], table["samples"]) == ("kl", 0.0, SIZE)
    assert all(loss > 0 for points in table["points"].values() for _, loss in points)


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    stage = AnalyseSensitivity(ranked=ranked(), scan=Scan(ratios=(0.5,)))
    run(stage, tmp_path / "run")
    path = tmp_path / "run" / "sensitivity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": "other"}))
    (tmp_path / "run" / "measured.json").unlink()
    with pytest.raises(ResumeMismatch, match="of another measurement: model: 'other' there"):
        run(stage, tmp_path / "run")


def refused() -> Iterator[tuple[Any, str]]:
    """Stages that cannot do what they are asked, and what they say."""
    yield (
        Prune(ranked=ranked(most=0.2), remove=0.9),
        r"90.0% cannot be removed: .* is the most; ask for less",
    )
    yield (
        Prune(ranked=ranked(keep=["0", "3", "6"]), remove=0.5),
        r"no layer of the Sequential is left that may lose channels \(.*0: kept, as asked for",
    )
    yield (
        Prune(ranked=ranked(keep=["3"]), remove=0.5, ratios={"3": 0.5}),
        "ratios: no layer matches '3'",
    )
    yield (
        Prune(ranked=ranked(only=["3"], keep=["3"]), remove=0.5),
        "'3' is named by only and by keep",
    )
    yield (
        Prune(ranked=ranked(), remove=0.1, ratios={"*": 0.9}),
        "the ratios alone leave .* they contradict each other",
    )


@pytest.mark.parametrize(("stage", "said"), [*refused()])
def test_what_cannot_be_done_is_named(stage: Prune, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        run(stage, tmp_path / "run")


def test_a_cut_that_removes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="found no channel to remove"):
        run(Prune(ranked=ranked(), remove=0.0001), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"only": ["conw*"]}, "only: no layer matches 'conw"),
        ({"keep": ["9.*"]}, "keep: no layer matches '9"),
    ],
)
def test_a_pattern_that_matches_nothing_is_found_before_anything_runs(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"stage 'prune', {said}"):
        Prune(ranked=ranked(**settings), remove=0.5).check(net())
    with pytest.raises(ConfigError, match="stage 'prune', ratios: no layer matches 'x'"):
        Prune(ranked=ranked(), ratios={"x": 0.5}).check(net())
    with pytest.raises(ConfigError, match="stage 'prune', keep: no layer matches '1'"):
        Prune(ranked=ranked(keep=["1"]), remove=0.5).check(net())  # a batch norm
    with pytest.raises(ConfigError, match="stage 'prune', '0' is named by only and by keep"):
        Prune(ranked=ranked(keep=["0"], only=["0"]), remove=0.5).check(net())
    with pytest.raises(ConfigError, match=r"stage 'prune': there is no table nowhere.json"):
        Prune(ranked=ranked(), remove=0.5, scan=Scan(tables=[Path("nowhere.json")])).check(net())


def test_a_metric_of_zero_cannot_lose_a_fraction(tmp_path: Path) -> None:
    stage = AnalyseSensitivity(ranked=ranked(), scan=Scan(by="goodness", ratios=(0.5,)))
    with pytest.raises(ConfigError, match="goodness of the whole model is 0"):
        run(stage, tmp_path / "run", metric=lambda model, stream: {"goodness": 0.0})
    with pytest.raises(ConfigError, match="by 'other': the metric answers goodness"):
        run(
            AnalyseSensitivity(ranked=ranked(), scan=Scan(by="other", ratios=(0.5,))),
            tmp_path / "other",
        )


def test_equal_scales_do_not_make_global_pruning_a_no_op(tmp_path: Path) -> None:
    outcome = run(Prune(ranked=ranked("bn_scale"), strategy="global", remove=0.5), tmp_path / "run")
    assert left_of(outcome) == pytest.approx(0.5, abs=0.05)
    widths = outcome.figures["pruning"]["cycles"][0]["widths"].values()
    assert all(after < before for before, after in widths)  # all alike, not one layer alone


def test_a_criterion_of_the_users_own_chooses(tmp_path: Path) -> None:
    def first(evidence: Any) -> torch.Tensor:
        return torch.arange(evidence.units)

    own = Ranked.by(first)
    outcome = run(Prune(ranked=own, ratios={"0": 0.25}), tmp_path / "run")
    edit = outcome.artifact.edits[0].to_json()
    assert edit["modules"]["0"] == {"out": list(range(4, 16))}
