"""The scorer: a model and a dataset as a function of ids, whatever the model does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from pantheon.codec import schema_parts
from pantheon.dataset import Ids
from pantheon.errors import (
    CodecError,
    ConfigError,
    DatasetError,
    IdOutOfRange,
    ModelError,
    NotFiniteError,
    SchemaError,
)
from pantheon.knowledge import Ragged, TopKLogits
from pantheon.schema import FieldSpec
from pantheon.scoring.revision import model_revision
from pantheon.scoring.scorer import Scorer
from tests.integration.models import SIZE, WIDTH, Augmented, Vectors, net


def scorer(model: Any, dataset: Any = None, schema: Any = None, **options: Any) -> Scorer:
    """A scorer over the vectors, of one raw field ``y``."""
    options = ({} if isinstance(model, torch.nn.Module) else {"revision": "1"}) | options
    return Scorer(model, dataset or Vectors(), schema or {"y": "raw"}, **options)


def value(scored: Scorer, ids: Any, **more: Any) -> Any:
    """The one field's value."""
    return scored.knowledge(np.array(ids), **more)["y"]


def test_a_model_is_put_into_evaluation_mode_and_called_without_gradients() -> None:
    model = net().train()
    model[3].weight.requires_grad_()
    y = scorer(model)
    assert not any(m.training for m in model.modules())
    parts = y.score(np.arange(4))
    assert not parts[0].requires_grad
    assert torch.equal(parts[0], y.score(np.arange(4))[0]), "dropout would differ"


def test_a_module_put_back_into_training_mode_is_refused_by_name() -> None:
    model = net()
    y = scorer(model)
    model[2].train()
    with pytest.raises(ModelError, match=r"'2' was put back into training mode"):
        y.score(np.arange(2))
    model.eval()
    y.score(np.arange(2))


@pytest.mark.parametrize(
    ("ids", "name"), [([0, -1], "-1"), ([SIZE, 3], str(SIZE)), ([10**12], str(10**12))]
)
def test_the_first_id_out_of_range_is_named(ids: list[int], name: str) -> None:
    with pytest.raises(IdOutOfRange, match=rf"id {name} .* 0 to {SIZE - 1}"):
        scorer(net()).score(np.array(ids))


def test_no_ids_is_an_error() -> None:
    with pytest.raises(DatasetError, match="at least 1"):
        scorer(net()).score(np.array([], np.int64))


def test_fixed_rows_give_the_same_bits_however_requests_are_cut() -> None:
    fixed = scorer(net(), fixed_rows=16)
    whole = value(fixed, np.arange(SIZE))
    for step in (1, 5, 16, 23):
        cut = [value(fixed, np.arange(a, min(a + step, SIZE))) for a in range(0, SIZE, step)]
        assert torch.equal(torch.cat(cut), whole)
    order = np.random.default_rng(0).permutation(SIZE)
    assert torch.equal(value(fixed, order), whole[torch.from_numpy(order)])


def test_every_forward_has_the_fixed_shape() -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    fixed = scorer(model, fixed_rows=16)
    for n in (1, 15, 16, 17, 40):
        assert torch.equal(value(fixed, np.arange(n)), Vectors().rows[:n])
    assert set(seen) == {16}


def test_the_fixed_shape_and_threads_are_part_of_the_revision() -> None:
    plain, fixed = scorer(net()), scorer(net(), fixed_rows=16)
    threads = torch.get_num_threads()
    assert fixed.revision == f"{plain.revision}+rows=16,threads={threads}"


def test_another_number_of_threads_is_refused_in_deterministic_mode() -> None:
    fixed, threads = scorer(net(), fixed_rows=16), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ModelError, match="threads"):
            fixed.score(np.arange(2))
    finally:
        torch.set_num_threads(threads)


def test_revisions_tell_weights_buffers_and_layers_apart() -> None:
    class Shift(torch.nn.Module):
        def __init__(self, by: float, persistent: bool = True) -> None:
            super().__init__()
            self.register_buffer("by", torch.tensor(by), persistent=persistent)

    gelu = net()
    gelu[1] = torch.nn.GELU()
    models = [net(), gelu, net().half(), net(16), Shift(1.0), Shift(2.0), Shift(3.0, False)]
    revisions = [model_revision(m) for m in models]
    assert len(set(revisions)) == len(models)
    assert revisions == [model_revision(m) for m in models]
    assert model_revision(net()) == revisions[0]


def test_a_bare_callable_must_state_its_revision() -> None:
    with pytest.raises(ConfigError, match="revision="):
        Scorer(lambda x: x, Vectors(), {"y": "raw"})


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "other rows": (lambda x: x[:-1] if len(x) > 1 else x, "3 rows for 4 samples"),
    "other shape": (lambda x: x if len(x) == 1 else x[:, :2], r"\(2,\).*\(24,\)"),
    "other dtype": (lambda x: x if len(x) == 1 else x.double(), "float64.*float32"),
    "a scalar": (lambda x: x if len(x) == 1 else x.sum(), "a scalar for 4"),
    "no tensor": (lambda x: x if len(x) == 1 else "text", "returned a str"),
    "two": (lambda x: x if len(x) == 1 else (x, x), "2 outputs; its schema has 1"),
    "raises": (lambda x: x if len(x) == 1 else x @ x, "RuntimeError for ids 5, 6, 7, 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_model_does_wrong_is_named(case: str) -> None:
    model, message = WRONG[case]
    with pytest.raises(ModelError, match=message):
        scorer(model).score(np.array([5, 6, 7, 8]))


def test_outputs_are_taken_by_name_in_order_or_as_one() -> None:
    def mapping(x: Tensor) -> dict[str, Tensor]:
        return {"b": x + 1, "a": x, "more": x}

    both = {"b": "raw", "a": "raw"}
    by_name = scorer(mapping, schema=both).knowledge(np.arange(3))
    in_order = scorer(lambda x: (x + 1, x), schema=both).knowledge(np.arange(3))
    for name, shift in (("a", 0), ("b", 1)):
        assert torch.equal(by_name[name], Vectors().rows[:3] + shift)
        assert torch.equal(in_order[name], by_name[name])
    assert Scorer(mapping, Vectors(), revision="1").schema.names == ("a", "b", "more")
    with pytest.raises(ModelError, match="no 'c'"):
        scorer(mapping, schema={"c": "raw"})


def test_some_fields_cost_nothing_of_the_others() -> None:
    both = scorer(lambda x: {"a": x, "b": x}, schema={"a": "raw", "b": "int8"})
    parts = both.score(np.arange(3), fields=("a",))
    assert [p.shape for p in parts] == [(3, WIDTH)]
    with pytest.raises(SchemaError, match="no field 'c'"):
        both.score(np.arange(3), fields=("c",))


def test_features_are_outputs_of_inner_modules() -> None:
    model = net()
    both = Scorer(model, Vectors(), {"logits": "float32"}, features={"mid": "1"})
    knowledge = both.knowledge(np.arange(5))
    with torch.inference_mode():
        assert torch.equal(knowledge["mid"], model[:2](Vectors().rows[:5]))
        assert torch.equal(knowledge["logits"], model(Vectors().rows[:5]))
    alone = Scorer(model, Vectors(), {"mid": "float16"}, features={"mid": "1"})
    assert alone.schema.names == ("mid",)
    with pytest.raises(ConfigError, match=r"no module '9'.*0, 1, 2, 3"):
        Scorer(model, Vectors(), {"mid": "raw"}, features={"mid": "9"})


def test_views_reach_the_dataset_and_zero_is_no_view() -> None:
    y = scorer(torch.nn.Identity(), Augmented(), views=4)
    rows = Vectors().rows
    assert torch.equal(
        value(y, [2, 2, 1], views=np.array([1, 4, 0])), rows[[2, 2, 1]] + _c(1, 4, 0)
    )
    assert torch.equal(value(y, [2], views=np.array([0])), rows[2:3])
    with pytest.raises(DatasetError, match="view 3 was asked for"):
        value(scorer(torch.nn.Identity()), [1], views=np.array([3]))
    with pytest.raises(ConfigError, match="views=2"):
        scorer(torch.nn.Identity(), views=2)


def _c(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def test_not_a_number_is_refused_by_field_and_id_or_let_through() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.where((x == Vectors().rows[7]).all(1, keepdim=True), torch.inf, x)

    with pytest.raises(NotFiniteError, match=r"field 'y'.*ids 7 \(1 samples\)"):
        scorer(model).score(np.arange(20))
    assert value(scorer(model, finite="allow"), np.arange(20))[7].isinf().all()


def test_a_sum_that_overflows_is_no_alarm() -> None:
    scorer(lambda x: torch.full_like(x, 3e38)).score(np.arange(50))


def test_a_float16_overflow_names_the_field() -> None:
    with pytest.raises(CodecError, match=r"'y'.*float16"):
        scorer(lambda x: x * 0 + 1e6, schema={"y": "float16"})


class Numbered(Vectors):
    """Inputs that are the ids, by a batched read."""

    def __getitems__(self, ids: list[int]) -> list[Any]:
        return [self[i] for i in ids]


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(Vectors().rows),
        TensorDataset(Vectors().rows, torch.zeros(SIZE)),
        Subset(Vectors(), range(SIZE)),
        Numbered(),
        [row.numpy() for row in Vectors().rows],
        [{"x": row, "label": 1} for row in Vectors().rows],
    ],
    ids=lambda d: type(d).__name__,
)
def test_every_kind_of_dataset_gives_the_same_batches(dataset: Any) -> None:
    y = scorer(lambda x: x, dataset)
    for ids in ([3, 4, 5], [9, 2, 2], [0]):
        assert torch.equal(value(y, ids), Vectors().rows[ids])


def test_a_model_of_ids_is_called_with_ids() -> None:
    table = torch.randn(50, 3)
    y = scorer(lambda ids: table[ids], Ids(50))
    assert y.dataset_fingerprint is None
    read_only = np.array([4, 9])
    read_only.flags.writeable = False
    assert torch.equal(value(y, read_only), table[[4, 9]])


def test_a_collate_fn_works_as_for_a_loader() -> None:
    def pair(items: list[Any]) -> tuple[Tensor, list[int]]:
        return torch.stack([x for x, _ in items]) * 2, [t for _, t in items]

    y = scorer(lambda x: x, collate_fn=pair)
    assert torch.equal(value(y, [1, 2]), Vectors().rows[1:3] * 2)


def test_several_inputs_go_in_as_their_forward_takes_them() -> None:
    rows = Vectors().rows
    pairs = [((row, row + 1), 0) for row in rows]
    dicts = [{"b": row + 1, "a": row, "label": 0} for row in rows]

    def by_place(a: Tensor, b: Tensor) -> Tensor:
        return a - 2 * b

    def whole(batch: dict[str, Tensor]) -> Tensor:
        return batch["a"] - 2 * batch["b"]

    expected = rows[:3] - 2 * (rows[:3] + 1)
    for model, dataset in ((by_place, pairs), (by_place, dicts), (whole, dicts)):
        assert torch.equal(value(scorer(model, dataset), np.arange(3)), expected)


def test_inputs_that_are_sent_are_scored_as_those_of_a_dataset() -> None:
    fixed = scorer(net(), fixed_rows=16)
    by_id = fixed.score(np.arange(40))
    assert torch.equal(fixed.score_inputs({"": Vectors().rows[:40]})[0], by_id[0])
    with pytest.raises(DatasetError, match="same number of rows"):
        fixed.score_inputs({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})


def test_without_a_dataset_shapes_come_from_an_example_or_are_stated() -> None:
    model = net()
    example = Scorer(model, schema={"y": "float16"}, example=torch.zeros(1, WIDTH))
    stated = Scorer(model, schema={"y": FieldSpec("y", "float32", (10,), "float16")})
    assert example.schema == stated.schema
    for one in (example, stated):
        assert one.score_inputs({"": Vectors().rows[:3]})[0].shape == (3, 10)
        with pytest.raises(DatasetError, match="answers inputs, not ids"):
            one.score(np.arange(2))
    with pytest.raises(ConfigError, match="example="):
        Scorer(model, schema={"y": "float16"})


def test_top_k_and_labels_are_in_the_schema() -> None:
    y = scorer(net(), schema={"y": "topk:3@1,2"}, labels={"y": ["cat", "dog"]})
    other = scorer(net(), schema={"y": "topk:3@1,2"}, labels={"y": ["dog", "cat"]})
    assert y.schema["y"].labels != other.schema["y"].labels
    assert [p.shape for p in y.score(np.arange(4))] == [(4, 3), (4, 3), (4, 2)]
    with pytest.raises(SchemaError, match="labels= names z"):
        scorer(net(), labels={"z": "1"})


def test_a_model_may_compute_its_top_k_itself() -> None:
    def model(ids: Tensor) -> TopKLogits:
        n = len(ids)
        return TopKLogits(
            torch.ones(n, 2), torch.zeros(n, 2, dtype=torch.int32), torch.zeros(n, 1), (1.0,), 9
        )

    found = value(scorer(model, Ids(5), {"y": "topk:2"}), np.arange(3))
    assert isinstance(found, TopKLogits)
    assert found.classes == 9


LENGTHS = np.random.default_rng(2).integers(1, 17, 60)


class Words:
    """Sequences of different length."""

    def __init__(self, wrap: Callable[[Tensor], Any] = lambda t: t) -> None:
        self.wrap = wrap
        self.rows = [torch.arange(n) + n for n in LENGTHS.tolist()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.wrap(self.rows[i])


class Tagger(torch.nn.Module):
    """One row per token and one per sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(40, 64)
        self.head = torch.nn.Linear(64, 7)
        self.seen: set[tuple[int, ...]] = set()

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        self.seen.add(tuple(tokens.shape))
        states = self.head(self.embed(tokens))
        real = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
        return {"tags": states, "sum": (states * real.unsqueeze(2)).sum(1)}


def dicts(row: Tensor) -> dict[str, Any]:
    """A sample as Hugging Face gives it."""
    return {"tokens": row.tolist(), "label": 1}


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, 0), dicts])
def test_sequences_are_padded_to_buckets_and_cut_to_their_lengths(wrap: Any) -> None:
    model = Tagger()
    tagged = Scorer(model, Words(wrap), buckets=(16, 4, 8), fixed_rows=8)
    model.seen.clear()
    order = np.random.default_rng(3).permutation(60)
    whole = tagged.knowledge(order)
    tags = whole["tags"]
    assert isinstance(tags, Ragged)
    assert tags.lengths.tolist() == LENGTHS[order].tolist()
    assert whole["sum"].shape == (60, 7)
    assert model.seen == {(8, 4), (8, 8), (8, 16)}
    for step in (1, 7, 60):
        for at in range(0, 60, step):
            part = tagged.knowledge(order[at : at + step])
            assert torch.equal(part["tags"].values, tags[at : at + step].values)
            assert torch.equal(part["sum"], whole["sum"][at : at + step])


def test_a_sequence_longer_than_every_bucket_says_so() -> None:
    with pytest.raises(DatasetError, match=r"length 1[0-9], more than the largest bucket 9"):
        Scorer(Tagger(), Words(), buckets=(9,)).score(np.arange(60))


def test_a_list_of_tensors_is_ragged() -> None:
    def boxes(ids: Tensor) -> list[Tensor]:
        return [torch.full((int(i) % 3, 4), float(i)) for i in ids]

    found = value(scorer(boxes, Ids(9), fixed_rows=4), [5, 3, 4, 8, 7])
    assert isinstance(found, Ragged)
    assert found.lengths.tolist() == [2, 0, 1, 2, 1]
    assert found.values[:, 0].tolist() == [5, 5, 4, 8, 8, 7]


def test_ragged_parts_of_several_forwards_are_one() -> None:
    def model(ids: Tensor) -> Ragged:
        return Ragged(ids.repeat_interleave(ids + 1), ids + 1)

    cut, whole = (scorer(model, Ids(9), batch_rows=rows) for rows in (2, 9))
    ids = np.array([3, 0, 8, 1, 1])
    specs = schema_parts(whole.schema)
    assert [s.per for s in specs] == ["sample", "row"]
    assert all(torch.equal(a, b) for a, b in zip(cut.score(ids), whole.score(ids), strict=True))


@pytest.mark.parametrize(
    "options",
    [{"fixed_rows": 0}, {"batch_rows": -1}, {"buckets": [0]}, {"finite": "maybe"}, {"views": -1}],
)
def test_arguments_that_cannot_be_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        scorer(net(), **options)


def test_a_mapping_of_a_class_of_its_own_is_a_mapping() -> None:
    class Output(dict[str, Any]):
        """As Hugging Face returns."""

    y = scorer(lambda x: Output(y=x, loss=None, past=(x, x)))
    assert value(y, [1]).shape == (1, WIDTH)
    with pytest.raises(ModelError, match="SimpleNamespace"):
        scorer(lambda x: SimpleNamespace(y=x))
