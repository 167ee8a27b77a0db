"""A configuration is checked when it is read, and a fault is named with its line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pantheon.compress.config import (
    DistilConfig,
    ExportConfig,
    LatencyConfig,
    MutualConfig,
    PartsConfig,
    PeerConfig,
    PipelineConfig,
    RunConfig,
)
from pantheon.config import (
    EmaConfig,
    LossConfig,
    OptimizerConfig,
    RampConfig,
    Section,
    SourceConfig,
    StudentConfig,
    TeacherConfig,
    load,
)
from pantheon.errors import ConfigError

TEACHER = """\
# a comment
model: my.code:net
dataset: my.code:digits
schema:
  logits: topk:64@1,2
features: {mid: layer3.1}
"""

STUDENT = """\
model: my.code:student
dataset: my.code:digits
batch_size: 64
teachers:
  a: tcp://127.0.0.1:5557
  b:
    - tcp://one:5557
    - tcp://two:5557
merge:
  logits: {mixture: {a: 0.7, b: 0.3}}
losses:
  - {loss: kl, field: logits, temperature: 4}
  - loss: cross_entropy
    weight: 0.5
optimizer:
  name: adamw
  lr: 1e-3
"""


def fault(tmp_path: Path, text: str, kind: type[Section]) -> str:
    """The message that `text` is refused with, the file's folder cut off."""
    file = tmp_path / "file.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, kind)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_right_file_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "student.yaml"
    file.write_text(STUDENT)
    config = load(file, StudentConfig)
    assert config.teachers["b"] == ["tcp://one:5557", "tcp://two:5557"]
    assert config.optimizer.lr == 1e-3
    assert config.losses[0].settings == {"temperature": 4.0}
    assert config.where("losses", 1, "weight") == f"{file}:14: losses.1.weight"


@pytest.mark.parametrize(
    ("written", "typo", "line", "nearest"),
    [
        ("schema:", "scema:", 4, "schema"),
        ("dataset:", "datset:", 3, "dataset"),
        ("features:", "feature:", 6, "features"),
    ],
)
def test_a_typo_is_named_with_its_line_and_the_nearest_key(
    tmp_path: Path, written: str, typo: str, line: int, nearest: str
) -> None:
    message = fault(tmp_path, TEACHER.replace(written, typo), TeacherConfig)
    assert message.startswith(f"file.yaml:{line}: unknown key {typo[:-1]!r}; did you mean")
    assert f"did you mean {nearest!r}?" in message


@pytest.mark.parametrize(
    ("written", "typo", "line", "nearest"),
    [
        ("temperature: 4", "temprature: 4", 12, "temperature"),
        ("    weight:", "    wieght:", 14, "weight"),
        ("  lr:", "  learning_rate:", 17, None),
    ],
)
def test_a_typo_inside_a_section_is_named_among_that_sections_keys(
    tmp_path: Path, written: str, typo: str, line: int, nearest: str | None
) -> None:
    message = fault(tmp_path, STUDENT.replace(written, typo), StudentConfig)
    assert message.startswith(f"file.yaml:{line}: unknown key")
    assert "batch_size" not in message
    if nearest:
        assert f"did you mean {nearest!r}?" in message
    else:
        keys = ", ".join(sorted(OptimizerConfig.model_fields))
        assert f"Valid keys here: {keys}" in message


@pytest.mark.parametrize(
    ("written", "wrong", "says"),
    [
        ("batch_size: 64", "batch_size: many", "file.yaml:3: batch_size: input should be a valid"),
        ("batch_size: 64", "batch_size: -1", "file.yaml:3: batch_size: input should be greater"),
        ("my.code:student", "my.code.student", "file.yaml:1: model: expected package.module:func"),
        ("lr: 1e-3", "lr: 0", "file.yaml:17: optimizer.lr: input should be greater than 0"),
        ("temperature: 4", "alpha: 4", "file.yaml:12: losses.0: the loss 'kl' has no alpha"),
        ("field: logits, ", "", "file.yaml:12: losses.0: the loss 'kl' needs a field"),
        ("dataset: my.code:digits\n", "", "file.yaml:1: 'dataset' is missing"),
        (
            "  name: adamw",
            "  name: adamw\n  nesterov: true",
            "'adamw' has no nesterov; it takes betas",
        ),
        (
            "  name: adamw",
            "  name: my.code:opt",
            "file.yaml:15: optimizer: the optimizer 'my.code:opt'",
        ),
        (
            "  name: adamw",
            "  name: sgd\n  nesterov: true",
            "optimizer: nesterov needs momentum above 0",
        ),
        ("  name: adamw", "  schedule: step", "the schedule 'step' needs epochs; add milestones"),
        ("  name: adamw", "  milestones: [3]", "the schedule 'constant' has no milestones"),
        (
            "  name: adamw",
            "  schedule: step\n  milestones: [3, 2]",
            "milestones must rise, found [3, 2]",
        ),
        ("  name: adamw", "  name: adamm", "file.yaml:16: optimizer.name: input should be 'adam'"),
    ],
)
def test_a_wrong_value_is_named_with_line_key_and_what_was_expected(
    tmp_path: Path, written: str, wrong: str, says: str
) -> None:
    assert written in STUDENT
    assert says in fault(tmp_path, STUDENT.replace(written, wrong), StudentConfig)


@pytest.mark.parametrize("name", ["float23", "topk:many", "topk:0", "topk:4@-1"])
def test_an_unknown_codec_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    message = fault(tmp_path, TEACHER.replace("topk:64@1,2", name), TeacherConfig)
    assert message.startswith("file.yaml:5: schema.logits: ")
    assert "expected" in message or "must keep" in message


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    text = STUDENT.replace("batch_size: 64", "batch_size: many").replace("lr:", "lrr:")
    assert len(fault(tmp_path, text, StudentConfig).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [a", "file.yaml:1: this is not YAML"),
        ("", "expected a mapping of keys to values, found nothing"),
        ("- model", "expected a mapping of keys to values, found a list or a single value"),
        ("model: a.b:c\nmodel: d.e:f\n", "file.yaml:2: 'model' was already said in line 1"),
        ("model: !!python/name:os.system x\n", "could not determine a constructor"),
        ("model: &a {b: *a}\n", "nested deeper than 32"),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in fault(tmp_path, text, TeacherConfig)


def test_an_absent_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.yaml"):
        load("nowhere.yaml", TeacherConfig)


def test_reading_a_configuration_imports_no_torch() -> None:
    code = "import sys, pantheon.config, pantheon.reference; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        *((k, "configuration.md") for k in (TeacherConfig, StudentConfig, OptimizerConfig)),
        *((k, "configuration.md") for k in (LossConfig, SourceConfig, RampConfig, EmaConfig)),
        *((k, "compression.md") for k in (PipelineConfig, DistilConfig, ExportConfig, RunConfig)),
        *((k, "compression.md") for k in (PartsConfig, PeerConfig, MutualConfig, LatencyConfig)),
    ],
)
def test_every_key_is_documented(kind: type[Section], page: str) -> None:
    docs = Path(__file__).parents[2] / "docs"
    # A stage has the keys of a student's training too, which are on the other page.
    text = "".join((docs / name).read_text(encoding="utf-8") for name in {page, "configuration.md"})
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert {info.alias or name for name, info in kind.model_fields.items()} <= documented


def test_a_checkpoint_at_a_url_is_refused_with_its_line(tmp_path: Path) -> None:
    said = fault(
        tmp_path, f"{STUDENT}checkpoint: {{path: 's3://bucket/run.safetensors'}}\n", StudentConfig
    )
    assert said.startswith("file.yaml:18: checkpoint.path: the checkpoint 's3://bucket/run")
    assert "is a URL; expected a path of a local or mounted file system" in said
