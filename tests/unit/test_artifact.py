"""A compressed model on disk: rebuilt bit by bit, or refused with what is wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress import folder as folders
from pantheon.compress.artifact import Artifact
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.prune.dependency import prune_edit
from pantheon.compress.registry import Edit, register
from pantheon.compress.select import SelectChannels
from pantheon.errors import (
    ArtifactError,
    CompressionError,
    ConfigError,
    DiskFullError,
    SchemaError,
    StoreError,
)
from pantheon.saving.checkpoint import load_weights

HERE = "tests.unit.test_artifact"

REBUILD = """if True:
    import sys, torch
    from pathlib import Path
    from safetensors.torch import load_file, save_file
    from pantheon.compress.artifact import Artifact
    torch.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        model = Artifact.load(folder).model.eval()
        with torch.no_grad():
            answered = model(load_file(folder / "images.safetensors")["images"])
        save_file({"logits": answered}, folder / "logits.safetensors")
"""


class Net(nn.Module):
    """A convolution, its norm and a head, and tensors of many kinds."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 2)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("none", torch.zeros(0, 2))
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.bfloat16))

    def forward(self, images: Tensor) -> Tensor:
        made = torch.relu(self.norm(self.conv(images)))
        logits: Tensor = self.head(made.mean((2, 3))) * self.scale.float()
        return logits


def tied(words: int = 5, ties: bool = True) -> nn.Module:
    model = nn.Sequential(nn.Embedding(words, 4), nn.Linear(4, words, bias=False))
    if ties:
        model[1].weight = model[0].weight
    return model


def broken() -> nn.Module:
    raise SchemaError("no such schema")


HALF = SelectChannels(
    {"conv": {"out": [0, 3]}, "norm": {"out": [0, 3]}, "head": {"in": [0, 3]}},
)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


@pytest.fixture
def artifact() -> Artifact:
    torch.manual_seed(0)
    made = Artifact.make(f"{HERE}:Net", {"channels": 4})
    made.model(IMAGES)  # so that the running statistics are its own
    made.edit(HALF)
    made.edit(FoldBatchNorm([("conv", "norm")]))
    return made


@pytest.fixture
def saved(artifact: Artifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "half")
    return tmp_path / "half"


def rewritten(folder: Path, **changes: Any) -> Path:
    """The folder with other entries in its artifact.json, and their digest; None leaves one out."""
    file = folder / "artifact.json"
    found = {**json.loads(file.read_text()), **changes}
    said = {k: v for k, v in found.items() if v is not None and k != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**said, "sha256": digest}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(folder)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


# --- rebuilt


def test_a_rebuilt_model_answers_the_same_bits(artifact: Artifact, saved: Path) -> None:
    again = Artifact.load(saved)
    assert (again.factory, again.args, again.edits) == (
        f"{HERE}:Net",
        {"channels": 4},
        (HALF, FoldBatchNorm([("conv", "norm")])),
    )
    assert type(again.model.norm) is nn.Identity
    assert torch.equal(again.model.eval()(IMAGES), artifact.model.eval()(IMAGES))
    assert again.digest() == artifact.digest()


def elsewhere(asked: Mapping[Path, Tensor]) -> dict[Path, Tensor]:
    """What the models in these folders answer to images in a fresh process."""
    for folder, images in asked.items():
        save_file({"images": images}, folder / "images.safetensors")
    subprocess.run([sys.executable, "-c", REBUILD, *map(str, asked)], check=True)
    return {folder: load_file(folder / "logits.safetensors")["logits"] for folder in asked}


@torch.no_grad()
def test_a_model_is_rebuilt_in_a_fresh_process(artifact: Artifact, saved: Path) -> None:
    assert torch.equal(elsewhere({saved: IMAGES})[saved], artifact.model.eval()(IMAGES))


def channels_to_lose(net: nn.Module) -> dict[str, list[int]]:
    """Some of a few convolutions, early and late, inside blocks and at their ends."""
    convs = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    chosen = [convs[0], convs[len(convs) // 2], convs[-2], convs[-1]]
    return {name: [0, conv.out_channels - 1] for name, conv in chosen}


def test_pruned_nets_of_the_papers_are_rebuilt_in_a_fresh_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    expected = {}
    for name in nets.__all__:
        net = Artifact.make(f"examples.vision.nets:{name}", {"classes": 3, "width": 0.25})
        weights = sum(p.numel() for p in net.model.parameters())
        net.model(images)
        net.edit(prune_edit(net.model, images, channels_to_lose(net.model)))
        assert sum(p.numel() for p in net.model.parameters()) < weights
        net.save(tmp_path / name)
        with torch.no_grad():
            expected[tmp_path / name] = net.model.eval()(images)
    answered = elsewhere(dict.fromkeys(expected, images))
    assert len(answered) == 7
    for folder, logits in expected.items():
        assert torch.equal(answered[folder], logits), folder.name


def test_the_weights_are_plain_safetensors(artifact: Artifact, saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["artifact.json", "weights.safetensors"]
    found = load_weights(saved / "weights.safetensors")
    state = artifact.model.state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_rebuilt_artifact_is_edited_and_saved_further(saved: Path) -> None:
    again = Artifact.load(saved)
    again.edit(SelectChannels({"conv": {"out": [1]}, "head": {"in": [1]}}))
    again.save(saved)
    third = Artifact.load(saved)
    assert len(third.edits) == 3
    assert third.model.conv.weight.shape == (1, 3, 1, 1)
    assert third.digest() == again.digest()


def test_tied_weights_are_kept_under_both_names_and_stay_tied(tmp_path: Path) -> None:
    made = Artifact.make(f"{HERE}:tied")
    made.edit(SelectChannels({"0": {"out": [1, 2]}, "1": {"in": [1, 2]}}))
    made.save(tmp_path)
    assert set(load_weights(tmp_path / "weights.safetensors")) == {"0.weight", "1.weight"}
    model: Any = Artifact.load(tmp_path).model
    assert model[0].weight is model[1].weight
    assert torch.equal(model[0].weight, made.model[0].weight)


def test_weights_that_were_untied_are_not_tied_again(tmp_path: Path) -> None:
    made = Artifact.make(f"{HERE}:tied")
    made.model[1].weight = nn.Parameter(torch.zeros(5, 4))
    made.save(tmp_path)
    assert "another name shares its memory and has other values" in refused(tmp_path)


def test_the_model_is_put_on_the_device(saved: Path) -> None:
    assert Artifact.load(saved, "meta").model.conv.weight.is_meta
    with pytest.raises(ConfigError, match="there is no device 'gpu'"):
        Artifact.load(saved, "gpu")


def test_a_device_that_this_machine_lacks_is_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: nn.Module, device: Any) -> nn.Module:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(nn.Module, "to", refuse)
    with pytest.raises(ConfigError, match=r"the device cuda:7: Torch not compiled"):
        Artifact.load(saved, "cuda:7")


def test_loading_takes_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Artifact.load(saved)
    assert torch.equal(torch.rand(1), expected)


def test_only_allowed_factories_are_called(saved: Path) -> None:
    assert Artifact.load(saved, factories=[f"{HERE}:Net"]).args == {"channels": 4}
    with pytest.raises(ArtifactError, match=r"its factory is 'tests.*allowed are a:b, c:d"):
        Artifact.load(saved, factories=["a:b", "c:d"])


# --- made and edited


def test_a_factory_is_called_with_json() -> None:
    made = Artifact.make(
        "torch.nn:Conv2d", {"in_channels": 1, "out_channels": 2, "kernel_size": (1, 3)}
    )
    assert made.args["kernel_size"] == [1, 3]
    assert made.edits == ()


@pytest.mark.parametrize(
    ("factory", "args", "said"),
    [
        ("torch.nn:Lineer", {}, "did you mean 'Linear'"),
        ("torch.nn:Linear", {"width": 1}, "cannot be called with"),
        ("torch.nn:Linear", {"in_features": 1, "out_features": Path()}, "written as JSON"),
        ("torch.nn:Linear", {"in_features": float("nan")}, "written as JSON"),
        ("fractions:Fraction", {}, "fractions:Fraction answered a Fraction"),
    ],
)
def test_a_factory_that_cannot_be_used_is_named(
    factory: str, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:3: ") as caught:
        Artifact.make(factory, args, "run.yaml:3")
    assert said in str(caught.value)


@register("test.edit")
@dataclass(frozen=True)
class Other(Edit):
    """Answers another root, fails half-way or answers no module."""

    does: str = "wrap"

    def apply(self, model: nn.Module) -> nn.Module:
        if self.does == "wrap":
            return nn.Sequential(model)
        if self.does == "spoil":
            model.steps.add_(1)
            raise ZeroDivisionError
        model.conv = nn.Conv2d(3, 1, 1)
        if self.does == "nothing":
            return None  # type: ignore[return-value]
        raise ZeroDivisionError

    def to_json(self) -> dict[str, Any]:
        return {"does": self.does}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)


def test_an_edit_may_answer_another_root(artifact: Artifact, tmp_path: Path) -> None:
    artifact.edit(Other())
    artifact.save(tmp_path)
    again = Artifact.load(tmp_path)
    assert isinstance(again.model, nn.Sequential)
    assert torch.equal(again.model.eval()(IMAGES), artifact.model.eval()(IMAGES))


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (SelectChannels({"conv": {"out": [9]}}), ConfigError),
        (Other("nothing"), CompressionError),
        (Other("fail"), ZeroDivisionError),
    ],
)
def test_an_edit_that_fails_leaves_no_trace(
    artifact: Artifact, edit: Edit, error: type[Exception]
) -> None:
    before, digest, conv = artifact.edits, artifact.digest(), artifact.model.conv
    with pytest.raises(error):
        artifact.edit(edit)
    assert artifact.edits == before
    assert artifact.digest() == digest
    assert artifact.model.conv is conv


def test_an_artifact_whose_weights_an_edit_spoilt_is_not_used(
    artifact: Artifact, tmp_path: Path
) -> None:
    before = artifact.edits
    with pytest.raises(ZeroDivisionError):
        artifact.edit(Other("spoil"))
    assert artifact.edits == before
    uses: list[Callable[[], Any]] = [
        lambda: artifact.model,
        lambda: artifact.save(tmp_path),
        lambda: artifact.edit(Other()),
    ]
    for use in uses:
        with pytest.raises(CompressionError, match=r"test\.edit wrote into the model's weights"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_of_everything(artifact: Artifact) -> None:
    def changed(change: Callable[[Artifact], Any]) -> str:
        other = deepcopy(artifact)
        change(other)
        return other.digest()

    def nudge(other: Artifact) -> None:
        other.model.none = torch.zeros(2, 0)

    changes: list[Callable[[Artifact], Any]] = [
        lambda other: None,
        lambda other: setattr(other, "factory", f"{HERE}:tied"),
        lambda other: other.args.update(channels=5),
        lambda other: other._edits.pop(),
        lambda other: other.model.steps.add_(1),
        lambda other: setattr(other.model, "steps", torch.tensor(3, dtype=torch.int32)),
        nudge,
        lambda other: other.model.register_buffer("more", torch.zeros(0)),
    ]
    found = [changed(change) for change in changes]
    assert found[0] == artifact.digest()
    assert len(set(found)) == len(changes)
    assert all(len(digest) == 64 for digest in found)


def test_what_safetensors_cannot_carry_is_named(tmp_path: Path) -> None:
    made = Artifact.make("torch.nn:LazyLinear", {"out_features": 2})
    with pytest.raises(StoreError, match="weight is a UninitializedParameter"):
        made.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.head.half(), "head.weight is torch.float16 of shape [2, 2], and the factory"),
        (lambda m: setattr(m, "head", nn.Linear(2, 5)), "head.weight is torch.float32 of shape [5"),
        (lambda m: setattr(m, "norm", nn.BatchNorm2d(2)), "the edits make it absent"),
        (lambda m: setattr(m, "head", nn.Identity()), "head.weight is absent"),
    ],
)
def test_a_model_that_was_changed_without_an_edit_is_not_written(
    artifact: Artifact, saved: Path, change: Callable[[nn.Module], Any], said: str
) -> None:
    change(artifact.model)
    with pytest.raises(CompressionError, match=re.escape(said)):
        artifact.save(saved)
    artifact.edit(SelectChannels({"conv": {"out": [1]}}))  # Of what an edit did not touch too.
    with pytest.raises(CompressionError, match=r"do it with Artifact\.edit"):
        artifact.save(saved)
    assert len(Artifact.load(saved).edits) == 2  # The one before is still there.


# --- the folder


def test_a_folder_whose_writer_was_killed_holds_the_old_or_the_new_or_is_refused(
    artifact: Artifact, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Path] = []

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        """The call; the folder as it was before it, and would be left by a kill, is kept."""

        def watch(*args: Any, **kwargs: Any) -> Any:
            left.append(tmp_path / f"left{len(left)}")
            left[-1].mkdir()
            for file in saved.iterdir():
                (left[-1] / file.name).write_bytes(file.read_bytes())
            return call(*args, **kwargs)

        return watch

    old = artifact.digest()
    artifact.edit(SelectChannels({"conv": {"out": [0]}, "head": {"in": [0]}}))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(os, "fsync", watched(os.fsync))
        artifact.save(saved)
    found = []
    for folder in left:
        if (folder / "artifact.json").exists():
            found.append(Artifact.load(folder).digest())
        else:
            assert "its writer was stopped before the end" in refused(folder)
            found.append("refused")
    assert list(dict.fromkeys(found)) == [old, "refused", artifact.digest()]
    for folder in left:
        artifact.save(folder)
        assert Artifact.load(folder).digest() == artifact.digest()
        assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFullError), (errno.EACCES, StoreError)]
)
def test_a_disk_that_refuses_leaves_the_old_artifact(
    artifact: Artifact,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[Exception],
) -> None:
    old = artifact.digest()
    artifact.edit(SelectChannels({"conv": {"out": [0]}, "head": {"in": [0]}}))

    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(error):
            artifact.save(saved)
    assert Artifact.load(saved).digest() == old
    assert len(list(saved.iterdir())) == 2


def test_a_recipe_that_could_not_be_read_again_is_not_written(
    artifact: Artifact, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LONGEST", 100)
    with pytest.raises(StoreError, match="at most 100 are read"):
        artifact.save(saved)
    assert "more than 100 bytes" in refused(saved)


def test_a_missing_folder_and_missing_files_are_named(saved: Path) -> None:
    assert "there is no folder" in refused(saved / "none")
    (saved / "weights.safetensors").unlink()
    assert f"there is no {saved}/weights.safetensors" in refused(saved)
    (saved / "artifact.json").unlink()
    assert "has no artifact.json" in refused(saved)


def test_a_url_is_no_folder(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uses: list[Callable[[str], Any]] = [artifact.save, Artifact.load]
    for use in uses:
        with pytest.raises(ConfigError, match="is a URL"):
            use("s3://bucket/half")
    assert list(tmp_path.iterdir()) == []


def test_altered_weights_are_refused(saved: Path) -> None:
    file = saved / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was altered after it was written" in refused(saved)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"channels": 4', '"channels": 5'), ('"sha256": "', '"sha256": "0'), ('"sha256"', '"sha257"')],
)
def test_an_altered_recipe_is_refused(saved: Path, old: str, new: str) -> None:
    file = saved / "artifact.json"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    assert f"{file} was altered after it was written" in refused(saved)


def test_weights_that_are_no_safetensors_are_refused(saved: Path) -> None:
    (saved / "weights.safetensors").write_bytes(b"weights")
    rewritten(saved, weights_sha256=hashlib.sha256(b"weights").hexdigest())
    assert "cannot read the weights" in refused(saved)


@pytest.fixture
def replaced(saved: Path) -> Callable[..., str]:
    """Puts other weights in the folder, with their digest, and answers why they are refused."""
    file = saved / "weights.safetensors"
    held = load_file(file)

    def replace(**changes: Tensor | None) -> str:
        tensors = {**held, **{name.replace("__", "."): t for name, t in changes.items()}}
        save_file({n: t for n, t in tensors.items() if t is not None}, file)
        rewritten(saved, weights_sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        return refused(saved)

    return replace


def test_weights_that_do_not_fit_are_named(replaced: Callable[..., str]) -> None:
    assert "misses 'conv.weight';" in replaced(conv__weight=None)
    said = replaced(conv__weihgt=torch.ones(1))
    assert "has the unexpected 'conv.weihgt'; the nearest are 'conv.weight'" in said
    said = replaced(head__bias=torch.ones(3))
    assert "'head.bias' in" in said
    assert "F32 of shape [3]; the rebuilt model has F32 of shape [2]" in said
    assert "F16 of shape [2]; the rebuilt" in replaced(head__bias=torch.ones(2).half())


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, "has version 2; this Pantheon reads 1"),
    ({"version": True}, "has version True"),
    ({"version": None}, "has version None"),
    ({"factory": None}, "has no key 'factory'; expected version, factory, args, edits"),
    ({"more": 1}, "has an unknown key 'more'"),
    ({"weights_sha256": 3}, "weights_sha256 is 3"),
    ({"weights_sha256": "0" * 64}, "was altered"),
    ({"factory": 3}, "factory is 3"),
    ({"factory": ""}, "cannot be rebuilt"),
    ({"factory": "..:x"}, "cannot be rebuilt"),
    ({"factory": "no_such_module:Net"}, "there is no module 'no_such_module'"),
    ({"factory": f"{HERE}:Nett"}, "did you mean 'Net'"),
    ({"factory": f"{HERE}:broken", "args": {}}, "no such schema"),
    ({"args": []}, "args is []; expected a mapping"),
    ({"args": {"depth": 3}}, "cannot be called with"),
    (
        {"args": {"channels": 3}},
        "edit 0 (select_channels) does not fit: 'conv', a Conv2d: it has 3",
    ),
    ({"args": {"channels": 5}, "edits": []}, "misses 'norm.bias'"),
    ({"edits": {}}, "edits is {}; expected a list"),
    ({"edits": [{"kind": "test.edit", "does": "fail"}]}, "edit 0 (test.edit) does not fit"),
    ({"edits": [{"kind": "test.edit", "dose": "wrap"}]}, "unexpected keyword argument 'dose'"),
    ({"edits": [3]}, "edit 0: an edit is 3; expected a mapping"),
    ({"edits": [{"kind": "select_chanel"}]}, "the nearest are 'select_channels'"),
    ({"edits": [{"kind": "x" * 10000}]}, "there is no edit of kind 'xxx"),
    (
        {"edits": [{"kind": "select_channels", "modules": {"cnv": {"out": [0]}}}]},
        "does not fit: Net has no module 'cnv'; the nearest are 'conv'",
    ),
    (
        {"edits": [{"kind": "select_channels", "modules": {"conv": {"out": [1, 0]}}}]},
        "edit 0: conv.out has 0 after 1; expected rising indices",
    ),
]


@pytest.mark.parametrize(("changes", "said"), OTHERS)
def test_a_recipe_that_does_not_fit_is_named(
    saved: Path, changes: dict[str, Any], said: str
) -> None:
    file = saved / "artifact.json"
    assert said in refused(rewritten(saved, **changes)), file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        b'{"version": NaN}',
        b"9" * 9999,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_what_is_no_recipe_is_refused(saved: Path, text: bytes) -> None:
    (saved / "artifact.json").write_bytes(text)
    refused(saved)
