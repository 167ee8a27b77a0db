"""How latency is measured: on a clock that the test moves, since no test depends on speed."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress import turns
from pantheon.compress.measure import Candidate, compare_latency, latency, latency_of
from pantheon.errors import ConfigError


class Clock:
    """A clock that only moves when something that takes time runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: Iterator[float]) -> Callable[[], None]:
        """A function that takes so long each time; its warm-up is part of that."""

        def run() -> None:
            self.now += next(seconds)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "perf_counter", clock)
    return clock


def after_warm_up(*runs: float) -> Iterator[float]:
    """Long warm-up, then turns of one long run that does not count and one that does."""
    yield from [99.0] * turns.WARM_UP
    for run in runs:
        yield from (99.0, run)


def test_quartiles_are_in_milliseconds_and_without_the_warm_up(clock: Clock) -> None:
    function = clock.taking(after_warm_up(0.005, 0.001, 0.004, 0.002, 0.003))
    found = latency_of(function, runtime="clock", seconds=0, rounds=5)
    told = [found.minimum, found.lower, found.median, found.upper]
    assert told == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert found.runs == 5


def test_a_candidate_runs_until_its_time_is_up(clock: Clock) -> None:
    always = iter(lambda: 0.25, None)
    found = latency_of(clock.taking(always), runtime="clock", seconds=2.0, rounds=2)
    assert found.runs == 8
    assert found.median == pytest.approx(250.0)


def test_candidates_take_turns_in_alternating_order() -> None:
    ran: list[str] = []
    both = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    found = compare_latency(both, seconds=0, rounds=3)
    assert "".join(ran) == "aaabbb" + "aabb" + "bbaa" + "aabb"
    assert (found.first, found.rounds, list(found.ratios)) == ("a", 3, ["a", "b"])


def test_a_ratio_is_of_the_same_round_so_that_drift_cancels(clock: Clock) -> None:
    first = clock.taking(after_warm_up(1.0, 2.0, 8.0))
    second = clock.taking(after_warm_up(0.5, 1.0, 4.0))
    ratios = compare_latency({"first": first, "second": second}, seconds=0, rounds=3).ratios
    assert asdict(ratios["first"]) == pytest.approx({"median": 1, "lower": 1, "upper": 1})
    assert asdict(ratios["second"]) == pytest.approx({"median": 0.5, "lower": 0.5, "upper": 0.5})


def test_a_ratio_has_quartiles_over_the_rounds(clock: Clock) -> None:
    first = clock.taking(after_warm_up(1.0, 1.0, 1.0, 1.0, 1.0))
    second = clock.taking(after_warm_up(2.0, 1.0, 5.0, 3.0, 4.0))
    ratio = compare_latency({"first": first, "second": second}, seconds=0, rounds=5).ratios
    told = [ratio["second"].lower, ratio["second"].median, ratio["second"].upper]
    assert told == pytest.approx([2.0, 3.0, 4.0])


class Nosy(nn.Module):
    """Notes the circumstances of its forward, then fails if asked to."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(), nn.Dropout())
        self.inner[1].eval()
        self.seen: set[Any] = set()
        self.fail = fail

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        training = any(module.training for module in self.modules())
        state = training, torch.is_grad_enabled(), gc.isenabled(), torch.get_num_threads()
        self.seen.add(state)
        if self.fail:
            raise RuntimeError("failed")
        return x + y


@pytest.mark.parametrize("fail", [False, True])
def test_a_model_is_timed_in_evaluation_mode_and_all_is_as_it_was_afterwards(fail: bool) -> None:
    model, inputs = Nosy(fail), {"y": torch.zeros(6, 2), "x": torch.zeros(6, 2)}
    before = torch.get_num_threads()
    if fail:
        with pytest.raises(RuntimeError, match="failed"):
            latency(model, inputs, threads=before + 1, seconds=0)
    else:
        found = latency(model, inputs, threads=before + 1, seconds=0)
        assert (found.rows, found.device, found.runtime) == (6, "cpu", "torch")
        assert found.threads == before + 1
    assert model.seen == {(False, False, False, before + 1)}
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.get_num_threads() == before
    assert gc.isenabled()
    assert torch.is_grad_enabled()


def test_another_device_is_waited_for_after_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def wait(device: torch.device) -> None:
        events.append(f"wait for {device}")

    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    found = latency_of(
        lambda: events.append("run"), runtime="torch", device="cuda:1", seconds=0, rounds=1
    )
    assert events[turns.WARM_UP :] == ["run", "wait for cuda:1"] * 2
    assert found.device == "cuda:1"


def test_a_function_says_what_it_is_and_a_candidate_for_itself() -> None:
    model = nn.Linear(3, 2)
    both: dict[str, Any] = {"torch": Candidate.of(model, torch.zeros(4, 3)), "other": list}
    found = compare_latency(both, runtime="onnxruntime", rows=4, threads=1, seconds=0)
    told = {name: (each.runtime, each.rows) for name, each in found.latencies.items()}
    assert told == {"torch": ("torch", 4), "other": ("onnxruntime", 4)}
    assert model.training


def test_a_comparison_fits_into_json() -> None:
    found = compare_latency({"a": lambda: None, "b": lambda: None}, seconds=0, rounds=2)
    told = json.loads(json.dumps(asdict(found)))
    assert told["latencies"]["b"]["runs"] == 2
    assert told["ratios"]["a"]["median"] == 1.0


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"rounds": 0}, {"seconds": -1.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}"):
        compare_latency({"a": lambda: None}, **wrong)


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match="no candidates"):
        compare_latency({})
