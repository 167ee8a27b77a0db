"""Losses on inner layers: taps, learners, alignment, weights over the epochs, peers."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon import Knowledge, Objective, Term
from pantheon.errors import ConfigError, ModelError, SchemaError
from pantheon.losses import FSP, Aligned, FeatureMSE
from pantheon.paths import module_at
from pantheon.scoring.scorer import Scorer
from pantheon.training.learner import Learner, Outputs
from pantheon.training.mutual import Mutual
from pantheon.training.objective import call_student
from pantheon.training.ramp import Ramp
from pantheon.training.rehearsal import first_batch, learner_of, rehearse
from pantheon.training.taps import Taps
from student_client import KnowledgeLoader


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def batch(n: int = 6, **fields: Tensor) -> Any:
    ids = torch.arange(n)
    generator = torch.Generator().manual_seed(1)
    return SimpleNamespace(
        inputs=torch.randn(n, 3, generator=generator),
        targets=torch.zeros(n, dtype=torch.int64),
        ids=ids,
        mask=torch.ones(n, dtype=torch.bool),
        knowledge=Knowledge(ids, dict(fields)),
    )


# --- taps


def test_taps_see_what_a_module_returned_and_leave_nothing_behind() -> None:
    model, inputs = net(), torch.ones(5, 3)
    output, found = Taps(["2", "0"]).call(model, lambda: model(inputs))
    assert torch.equal(model[3](found["2"]), output)
    assert set(found) == {"0", "2"}
    assert not any(m._forward_hooks for m in model.modules())


def test_taps_go_on_working_after_a_module_was_replaced_and_in_copies() -> None:
    taps, model = Taps(["2"]), net()
    model[2] = nn.Tanh()
    twin = copy.deepcopy(model)
    for each in (model, twin):
        _, found = taps.call(each, lambda each=each: each(torch.ones(4, 3)))  # type: ignore[misc]
        assert found["2"].abs().max() <= 1


def test_hooks_go_even_when_the_model_raises() -> None:
    model = net()
    with pytest.raises(RuntimeError):
        Taps(["0"]).call(model, lambda: model(torch.ones(5, 7)))
    assert not any(m._forward_hooks for m in model.modules())


def test_a_path_without_a_module_is_named_with_the_nearest() -> None:
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"layer1": nn.ReLU(), "layer2": nn.ReLU()})})
    with pytest.raises(ConfigError, match=r"'encoder.layer3'; the nearest are 'encoder.layer"):
        module_at(model, "encoder.layer3")


def test_a_module_that_runs_twice_or_never_or_returns_no_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never, self.text = nn.ReLU(), nn.ReLU(), Text()

        def forward(self, x: Tensor) -> Tensor:
            self.text(x)
            return self.twice(self.twice(x))  # type: ignore[no-any-return]

    class Text(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "x"

    model = Odd()
    for path, said in [("twice", "ran twice"), ("never", "did not run"), ("text", "returns a str")]:
        with pytest.raises(ModelError, match=said):
            Taps([path]).call(model, lambda: model(torch.ones(1)))


# --- terms on layers


def test_a_term_compares_a_layer_with_a_field() -> None:
    given = batch(mid=torch.zeros(6, 4))
    objective = Objective([Term("mid", FeatureMSE(), field="mid", layer="2")])
    learner = Learner(net(), layers=["2"])
    made = learner(given.inputs)
    assert objective(made, given)["mid"].item() == pytest.approx(
        made.layers["2"].square().mean().item()
    )


def test_masked_rows_of_a_layer_do_not_count() -> None:
    knowledge = Knowledge(
        torch.arange(6), {"mid": torch.full((6, 4), torch.nan)}, mask={"mid": torch.zeros(6).bool()}
    )
    given = batch()
    given.knowledge = knowledge
    learner = Learner(net(), layers=["2"])
    term = Term("mid", FeatureMSE(), field="mid", layer="2")
    assert term(learner(given.inputs), given).item() == 0.0


def test_two_layers_are_compared_with_two_fields() -> None:
    a, b = torch.rand(6, 2, 3, 3), torch.rand(6, 5, 3, 3)
    outputs = Outputs(None, {"x": a, "y": b})
    term = Term("fsp", FSP(), field=("p", "q"), layer=("x", "y"))
    assert term(outputs, batch(p=a, q=b)).item() == 0.0
    assert term(outputs, batch(p=2 * a, q=b)).item() > 0.0
    with pytest.raises(ConfigError, match="as many layers as fields"):
        Term("fsp", FSP(), field=("p", "q"), layer="x")


def test_a_layer_that_nobody_taps_and_a_layer_beside_an_output_are_refused() -> None:
    term = Term("mid", FeatureMSE(), field="mid", layer="2")
    with pytest.raises(ConfigError, match="which nobody taps"):
        term(torch.ones(6, 2), batch(mid=torch.zeros(6, 4)))
    with pytest.raises(ConfigError, match="name one of them"):
        Term("mid", FeatureMSE(), field="mid", layer="2", output="logits")


# --- weights that change


def test_a_weight_goes_from_one_value_to_another() -> None:
    wave = Ramp(0.0, 2.0, begin=1, until=3, shape="cosine")
    assert [wave.at(e) for e in (0, 1, 3, 9)] == [0.0, 0.0, 2.0, 2.0]
    assert wave.at(2) == pytest.approx(1.0)
    assert wave.at(1.5) == pytest.approx(1 - math.cos(math.pi / 4))
    assert Ramp(1.0, 3.0, begin=2, until=2).at(1.99) == 1.0
    for wrong in ({"begin": 2.0, "until": 1.0}, {"end": math.nan}):
        with pytest.raises(ConfigError, match="cannot be"):
            Ramp(**{"start": 1.0, "end": 0.0} | wrong)  # type: ignore[arg-type]


def test_an_objective_weighs_its_terms_by_the_epoch() -> None:
    given = batch(y=torch.zeros(6, 2))
    objective = Objective(
        [Term("y", nn.MSELoss(), field="y", weight=Ramp(1.0, 0.0, begin=0, until=4))]
    )
    whole = objective(torch.ones(6, 2), given)["y"].item()
    objective.epoch = 3.0
    assert objective(torch.ones(6, 2), given)["y"].item() == pytest.approx(whole / 4)


# --- alignment


def test_an_alignment_is_made_in_rehearsal_and_learned_with_the_student() -> None:
    torch.manual_seed(1)
    samples, teacher = torch.randn(12, 3), nn.Linear(3, 7)
    terms = [Term("hint", Aligned(FeatureMSE()), field="mid", layer="2")]
    model = net()
    learner, objective = learner_of(model, terms), Objective(terms)
    before = copy.deepcopy(model.state_dict())
    with KnowledgeLoader(
        samples, 4, teachers={"t": Scorer(teacher, samples, {"mid": "float32"})}
    ) as stream:
        rehearse(learner, objective, stream)
        assert [tuple(p.shape) for p in learner.losses.parameters()] == [(7, 4), (7,)]
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert learner.training
        assert first_batch(stream).ids.tolist() == [0, 1, 2, 3]
        optimizer = torch.optim.SGD(learner.parameters(), 0.1)
        losses = []
        for _ in range(30):
            for each in stream:
                loss = objective(call_student(learner, each.inputs), each)["hint"]
                optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_what_no_alignment_brings_together_says_both_shapes() -> None:
    with pytest.raises(SchemaError, match=r"\(4,\).*\(2, 2, 2\)"):
        Aligned(FeatureMSE())(torch.ones(3, 4), torch.ones(3, 2, 2, 2))


# --- peers


def test_peers_learn_from_each_other_and_the_first_is_the_student() -> None:
    torch.manual_seed(0)
    student, peer = net(), nn.Linear(3, 2)
    learner = Learner(student, peers=[peer])
    objective = Mutual(Objective([Term("labels", nn.CrossEntropyLoss())]), weight=2.0)
    given = batch()
    losses = objective(learner(given.inputs), given)
    a, b = student(given.inputs), peer(given.inputs)
    labels = nn.functional.cross_entropy(a, given.targets) + nn.functional.cross_entropy(
        b, given.targets
    )
    mutual = nn.functional.kl_div(
        a.log_softmax(1), b.softmax(1), reduction="batchmean"
    ) + nn.functional.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean")
    assert losses["labels"].item() == pytest.approx(labels.item(), rel=1e-5)
    assert losses["mutual"].item() == pytest.approx(2 * mutual.item(), rel=1e-5)
    assert objective.rows(given) == {"labels": 6, "mutual": 6}
    assert torch.equal(learner.eval()(given.inputs), student.eval()(given.inputs))


def test_a_loss_that_has_the_name_of_the_peers_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="named 'mutual'"):
        Mutual(Objective([Term("mutual", nn.CrossEntropyLoss())]))
