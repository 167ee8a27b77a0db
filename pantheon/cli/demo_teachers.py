"""The demo's teachers: trained, written down as configurations, and served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pantheon.config import TeacherConfig, load
from pantheon.demo import models, recipe
from pantheon.demo.data import accuracy, held_out_part
from pantheon.demo.report import Report
from pantheon.saving import checkpoint

TEACHERS: Mapping[str, tuple[str, str]] = {
    "a": ("conv_net", "float32"),
    "b": ("wide_mlp", "float16"),
}
"""Each teacher's model and the codec of its logits."""

YAML = """\
# Teacher {name} of the demo. Serve it: pantheon serve {path} --bind tcp://127.0.0.1:5557
name: {name}
model: pantheon.demo.models:{model}
weights: {weights}
dataset: pantheon.demo.data:training_part
schema: {{logits: {codec}}}
threads: 1
"""


def prepare(out: Path, report: Report, say: Callable[[str], None]) -> dict[str, TeacherConfig]:
    """Train the teachers, unless an earlier run did, and write their configurations."""
    out.mkdir(parents=True, exist_ok=True)
    configs = {}
    for name, (model, codec) in TEACHERS.items():
        weights, path = out / f"teacher-{name}.safetensors", out / f"teacher-{name}.yaml"
        report.teachers[name] = _train(name, model, weights, say)
        text = YAML.format(name=name, model=model, weights=weights, codec=codec, path=path)
        path.write_text(text)
        configs[name] = load(path, TeacherConfig)
    return configs


def _train(name: str, kind: str, weights: Path, say: Callable[[str], None]) -> float:
    """Make sure that a teacher's weights are there; answers its held-out accuracy."""
    made = f"{kind}, {recipe.TEACHER_EPOCHS} epochs, torch {torch.__version__}"
    torch.manual_seed(0)
    model = getattr(models, kind)()
    if _recipe_of(weights) == made:
        model.load_state_dict(checkpoint.load_weights(weights))
        found = accuracy(model, held_out_part())
        say(f"teacher {name.upper()}: {kind}, {100 * found:.1f} %, kept from an earlier run")
        return found
    # What an earlier teacher knew is not what this one knows.
    shutil.rmtree(weights.parent / f"knowledge-{name}", ignore_errors=True)
    recipe.train_teacher(model)
    save_file(model.state_dict(), weights, {"recipe": made})
    found = accuracy(model, held_out_part())
    say(f"teacher {name.upper()}: {kind}, {100 * found:.1f} % on held-out digits")
    return found


def _recipe_of(weights: Path) -> str | None:
    """How an earlier run made a file of weights; None where there is none to read."""
    try:
        with safe_open(weights, framework="pt") as file:
            recipe: str | None = (file.metadata() or {}).get("recipe")
    except (OSError, SafetensorError):
        return None
    return recipe
