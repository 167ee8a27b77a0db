"""Every net by every criterion: the MACs asked for, forward and backward, another process, ONNX."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.export import Export
from pantheon.compress.macs import macs
from pantheon.compress.prune.costs import cost_of
from pantheon.compress.prune.criteria import CRITERIA
from pantheon.compress.prune.cutting import Ranked, cut
from pantheon.compress.prune.gradients import gradients
from pantheon.compress.prune.grouping import structure_of
from pantheon.compress.prune.groups import Structure
from pantheon.compress.prune.ranking import Level, Ranking, chosen, energy, everywhere, uniform
from pantheon.errors import ConfigError
from pantheon.sampling.reading import slice_rows
from pantheon.training.objective import Term, call_student
from tests.integration.prunable import NETS, inputs_of

ROOT = Path(__file__).parents[2]

AGAIN = """
import sys, torch
from safetensors.torch import save_file
from pantheon.compress import Artifact
from pantheon.training.objective import call_student
from tests.integration.prunable import inputs_of
folder, name = sys.argv[1:]
torch.set_num_threads(1)
with torch.no_grad():
    found = call_student(Artifact.load(folder).model.eval(), inputs_of(name))
found = found if hasattr(found, "items") else {"logits": found}
save_file({k: v.contiguous() for k, v in found.items()}, folder + "/answer.safetensors")
"""


class One:
    """A stream of one batch."""

    def __init__(self, inputs: Any) -> None:
        self.inputs, self.ids, self.targets = inputs, torch.arange(2), torch.zeros(2)
        self.mask = torch.ones(2, dtype=torch.bool)

    def to(self, device: Any) -> One:
        return self

    def __iter__(self) -> Any:
        return iter([self])


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().mean()


def made(name: str) -> Artifact:
    torch.manual_seed(4)
    artifact = Artifact.make(*NETS[name])
    artifact.model.train()
    call_student(artifact.model, inputs_of(name))  # so that batch norms have seen something
    artifact.model.eval()
    return artifact


def answers(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    found = call_student(model, inputs)
    return dict(found) if isinstance(found, Mapping) else {"logits": found}


def step_of(structure: Structure, rankings: Mapping[str, Ranking], whole: nn.Module) -> float:
    """The largest share of the MACs that one unit of a group has."""
    inputs = structure.dependencies.inputs
    total = macs(whole, inputs).total
    without = (
        macs(structure.pruned({name: rankings[name].order[:1]}), inputs).total for name in rankings
    )
    return max(1 - left / total for left in without)


def levels(criterion: str, rankings: Mapping[str, Ranking]) -> dict[str, Level]:
    found = {"uniform": uniform(rankings)}
    if CRITERIA[criterion].across:
        found["global"] = everywhere(rankings, across=True)
    # PaddleSlim's OptSlim goes by the scales of batch norms in each layer.
    return found | ({"energy": energy(rankings)} if criterion == "bn_scale" else {})


def silenced(model: nn.Module, structure: Structure, name: str, units: set[int]) -> nn.Module:
    """A copy whose layers make nothing of these units: 0 from there on."""
    model, group = copy.deepcopy(model), structure.groups[name]
    for rows in (*group.makers, *group.norms):
        layer = model.get_submodule(rows.path)
        for index, unit in zip(rows.indices, rows.units, strict=True):
            if unit in units:
                for tensor in layer.parameters(recurse=False):
                    by_channel(layer, tensor)[index] = 0
    return model


def by_channel(layer: nn.Module, tensor: Tensor) -> Tensor:
    """A view of a parameter with the output channels first."""
    if isinstance(layer, nn.ConvTranspose2d) and tensor.ndim > 1:
        return tensor.transpose(0, 1)
    return tensor.T if isinstance(layer, nn.Embedding) else tensor


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The fresh process computes with one thread, and sums of several end in other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_net_without_units_answers_as_if_they_were_silent(name: str) -> None:
    model, inputs = made(name).model, inputs_of(name)
    structure = structure_of(model, slice_rows(inputs, 0, 1))
    for group in structure.groups.values():
        members = [m for rows in group.roots for m in structure.coupled.members[rows.path]]
        layers = dict(model.named_modules())
        if any(isinstance(layers.get(m.path), nn.LayerNorm | nn.GroupNorm) for m in members):
            continue  # It divides by what all channels have in common, silent ones too.
        units = {0, group.units // 2} if group.units > 2 else {0}
        expected = answers(silenced(model, structure, group.name, units), inputs)
        found = answers(structure.pruned({group.name: units}), inputs)
        for key, value in expected.items():
            assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-5), group.name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NETS)
def test_a_net_by_every_criterion(name: str, tmp_path: Path) -> None:
    artifact, inputs = made(name), inputs_of(name)
    one = slice_rows(inputs, 0, 1)
    cost = cost_of("macs", artifact.model, one)
    everything = Ranked.by("l1").structure(artifact.model, one)
    found = gradients(
        artifact.model,
        everything.groups,
        [Term("own", squares, output="logits")],
        One(inputs),  # type: ignore[arg-type]
    )
    normed = any(isinstance(m, nn.BatchNorm2d) for m in artifact.model.modules())
    for criterion in CRITERIA:
        ranked = Ranked.by(criterion)
        if criterion == "bn_scale" and not normed:
            with pytest.raises(ConfigError, match="no batch norm with a scale follows"):
                ranked.structure(artifact.model, one)
            continue
        structure = ranked.structure(artifact.model, one)
        rankings = ranked.rankings(structure, artifact.model, found, seed=0)
        for strategy, level in levels(criterion, rankings).items():
            left = 0.5 if criterion != "bn_scale" else 0.7  # not all layers are followed by one
            reached = cut(structure, rankings, level, cost, left, {})
            apart = abs(reached.left - left)
            if apart > 0.02:
                step = step_of(structure, rankings, artifact.model)
                assert apart <= step, (criterion, strategy)
            model = structure.pruned(chosen(rankings, reached.counts)).train()
            model.zero_grad()
            torch.stack(
                [a.square().mean() for a in answers(model, inputs).values()]
            ).sum().backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    artifact.edit(structure.edit(chosen(rankings, reached.counts)))
    with torch.no_grad():
        expected = answers(artifact.model.eval(), inputs)
    reloaded(artifact, name, tmp_path, expected)
    export = Export(tolerance=1e-4)
    export.write(artifact.model, inputs, tmp_path / "model.onnx")
    export.verify(artifact.model, inputs, tmp_path / "model.onnx")


def reloaded(artifact: Artifact, name: str, folder: Path, expected: Mapping[str, Tensor]) -> None:
    """Make sure that a fresh process answers the same bits."""
    from safetensors.torch import load_file

    artifact.save(folder)
    subprocess.run([sys.executable, "-c", AGAIN, str(folder), name], cwd=ROOT, check=True)
    again = load_file(folder / "answer.safetensors")
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[key], expected[key]) for key in again)
