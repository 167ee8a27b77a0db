"""In which order stages make sense. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pantheon.compress.stage import Phase, Stage
from pantheon.errors import ConfigError

AFTER: dict[Phase, tuple[tuple[Phase, ...], str]] = {
    "search": (
        ("quantize", "sparsify"),
        "another architecture has no use for the scales and masks that were found",
    ),
    "prune": (
        ("quantize", "sparsify"),
        "the scales and masks were found for the channels that are there",
    ),
    "sparsify": (("quantize",), "the scales were found for the weights that are there"),
    "quantize": (("sparsify",), "what rounds weights does not keep their zeros"),
}
"""Which phases must not come before a phase, and why."""


def check_order(stages: Sequence[tuple[str, Phase]]) -> None:
    """Make sure that a list of stages, by name and phase, can be run in its order.

    Raises:
        ConfigError: two of one name, pruning or search after quantization, or anything but another
            export (or an analysis) after an export.

    Example:
        >>> check_order([("prune", "prune"), ("int8", "quantize"), ("onnx", "export")])
    """
    if not stages:
        raise ConfigError("a pipeline needs at least one stage")
    names = [name for name, _ in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two stages are named {twice!r}; give each a name of its own")
    for index, (name, phase) in enumerate(stages):
        for earlier, before in stages[:index]:
            wrong, why = AFTER.get(phase, ((), ""))
            if before in wrong:
                raise ConfigError(
                    f"stage {name!r} would {phase} after {earlier!r} did {before}: {why}; put "
                    f"{name!r} before {earlier!r}"
                )
            if before == "export" and phase not in ("export", "analyse"):
                raise ConfigError(
                    f"stage {name!r} would change the model after {earlier!r} exported it; put "
                    f"{earlier!r} last"
                )


def check_stages(stages: Sequence[Stage], model: nn.Module) -> None:
    """Make sure that stages can be run in their order, and on the model that goes in.

    Raises:
        ConfigError: says which cannot, and why.
    """
    check_order([(stage.name, stage.phase) for stage in stages])
    for stage in stages:
        if stage.phase == "search":
            return  # What comes after it sees another model.
        stage.check(model)
