"""Merges that go on without teachers: who answered counts, who did not is never zero."""

import pytest
import torch

from pantheon.codec import top_k
from pantheon.errors import ConfigError, MergeError
from pantheon.merge import Mask, Mean, Mixture, Quorum, Route, Sum, Weighted
from pantheon.merge.quorum import blank
from pantheon.ragged import Ragged
from pantheon.schema import FieldSpec
from pantheon.topk import TopKMixture

SPEC = FieldSpec("x", "float32", (1,), "float32")
SPECS = {"a": SPEC, "b": SPEC, "c": SPEC}
A, B, C = (torch.tensor([[n], [n + 1], [n + 2]]) for n in (0.0, 10.0, 20.0))
ALL = {"a": None, "b": None, "c": None}


def prepared(merge: Quorum, specs=SPECS):
    merge.spec("x", specs)
    return merge


def test_with_everybody_there_it_is_the_merge_itself():
    values = {"a": A, "b": B, "c": C}
    assert torch.equal(prepared(Quorum("mean"))("x", values, ALL, 3), Mean()("x", values, {}, 3))


def test_each_row_is_merged_from_who_answered_it():
    rows = ALL | {"b": torch.tensor([1, 2]), "c": torch.tensor([], dtype=torch.int64)}
    value = prepared(Quorum("mean", least=1))("x", {"a": A, "b": B[1:]}, rows, 3)
    assert value.flatten().tolist() == [0.0, 6.0, 7.0]


def test_weights_of_those_who_answered_weigh_as_much_as_all():
    rows = {"a": None, "b": torch.tensor([0])}
    merge = prepared(Quorum(Weighted(a=1.0, b=3.0)), {"a": SPEC, "b": SPEC})
    value = merge("x", {"a": A, "b": B[:1]}, rows, 3)
    assert value.flatten().tolist() == [30.0, 4.0, 8.0]


def test_rows_below_the_quorum_are_masked_and_not_a_number():
    rows = ALL | {"b": torch.tensor([1]), "c": torch.tensor([1, 2])}
    merge = prepared(Quorum("mean", least=2, below="mask"))
    value = merge("x", {"a": A, "b": B[1:2], "c": C[1:]}, rows, 3).flatten()
    assert merge.mask(list(SPECS), rows, 3).tolist() == [False, True, True]
    assert value[0].isnan()
    assert value[1:].tolist() == [11.0, 12.0]


def test_a_mask_wants_every_teacher_and_none_is_needed():
    merge = prepared(Mask("mean"))
    assert not merge.needed(SPECS, set(SPECS))
    assert merge.mask(list(SPECS), ALL, 3) is None
    nobody = dict.fromkeys(SPECS, torch.tensor([], dtype=torch.int64))
    assert merge("x", {}, nobody, 2).isnan().all()


def test_a_quorum_that_raises_needs_its_least():
    merge = prepared(Quorum("mean", least=2))
    assert not merge.needed(SPECS, {"a"})
    assert merge.needed(SPECS, {"a", "b"})
    one = ALL | {"b": torch.tensor([0, 1]), "c": torch.tensor([0])}
    with pytest.raises(MergeError, match="1 teachers answered a row"):
        merge("x", {"a": A, "b": B[:2], "c": C[:1]}, one, 3)


def test_top_k_is_mixed_from_who_answered_and_masked_where_nobody_did():
    spec = FieldSpec("x", "float32", (9,), "topk:2")
    logits = torch.arange(18.0).reshape(2, 9)
    merge = Quorum(Mixture(a=0.25, b=0.75), least=1, below="mask")
    merge.spec("x", {"a": spec, "b": spec})
    rows = {"a": torch.tensor([0, 1]), "b": torch.tensor([1])}
    value = merge("x", {"a": top_k(logits, 2), "b": top_k(logits[1:], 2)}, rows, 3)
    assert isinstance(value, TopKMixture)
    alone = Mixture()("x", {"a": top_k(logits[:1], 2)}, {}, 1)
    assert torch.equal(value[:1].probs_at(1)[0][..., : alone.k], alone.probs_at(1)[0])
    assert value[2:].probs_at(1)[0].isnan().all()


def test_a_ragged_row_that_nobody_answered_has_no_rows():
    spec = FieldSpec("x", "float32", (2,), "float32", "tokens")
    merge = Mask()
    merge.spec("x", {"a": spec})
    value = merge(
        "x",
        {"a": Ragged(torch.ones(3, 2), torch.tensor([3]))},
        {"a": torch.tensor([1])},
        2,
    )
    assert value.lengths.tolist() == [0, 3]
    assert blank(spec, 2).lengths.tolist() == [0, 0]


@pytest.mark.parametrize("merge", [Sum(), "concat", "stack", Route([0], {0: "a", 1: "b", 2: "c"})])
def test_merges_that_mean_something_for_all_only_are_refused_at_once(merge):
    with pytest.raises(MergeError, match="cannot do without any of its teachers"):
        Quorum(merge, least=1).spec("x", SPECS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Quorum("mean", least=4).spec("x", SPECS), "4 never answer"),
        (lambda: Quorum(None).spec("x", SPECS), "how to merge"),
        (lambda: Mask().spec("x", {"a": FieldSpec("x", "int64", (1,), "raw")}), "no NaN"),
    ],
)
def test_a_quorum_that_cannot_be_says_why(make, says):
    with pytest.raises(MergeError, match=says):
        make()


@pytest.mark.parametrize("options", [{"least": 0}, {"least": 1.5}, {"below": "zeros"}])
def test_arguments_that_cannot_be_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Quorum("mean", **options)
