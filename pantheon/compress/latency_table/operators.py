"""What a runtime executes: an operator with its shapes, and what it is fused with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pantheon.errors import ConfigError
from pantheon.quote import near, quoted

Shape = tuple[int, ...]

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "conv": ("dilation", "groups", "kernel", "out", "pad", "stride"),
    "conv_transpose": ("dilation", "groups", "kernel", "more", "out", "pad", "stride"),
    "linear": ("out",),
    "matmul": (),
    "embedding": ("rows", "width"),
    "batch_norm": (),
    "layer_norm": ("axis",),
    "max_pool": ("kernel", "pad", "stride"),
    "average_pool": ("kernel", "pad", "stride"),
    "mean": ("axes",),
    "softmax": ("axis",),
    "concat": ("axis",),
    "pad": ("before", "past"),
    "resize": ("factors",),
    "slice": ("axis", "length"),
    "transpose": ("order",),
    **dict.fromkeys(("add", "sub", "mul", "div", "pow"), ()),
    **dict.fromkeys(("relu", "clip", "leaky_relu", "sigmoid", "tanh", "hard_sigmoid"), ()),
    **dict.fromkeys(("hard_swish", "silu", "gelu", "elu", "softplus"), ()),
    **dict.fromkeys(("exp", "log", "sqrt", "neg", "abs", "erf", "reciprocal"), ()),
}
"""Kinds of operators, and what each says of itself besides the shapes that it is given."""

FUSED = ("add", "relu", "clip", "leaky_relu", "sigmoid", "tanh", "hard_sigmoid")
"""What a runtime does in the same go as a convolution or a product before it."""

LARGEST = 1 << 30
"""Numbers of a tensor, or of a weight, at most."""

AT_LEAST_ONE = ("dilation", "factors", "groups", "kernel", "out", "rows", "stride", "width")
"""Attributes whose numbers are 1 or more."""

WINDOW = ("dilation", "kernel", "more", "pad", "stride")
"""Attributes that have a number for each side of what an operator is given."""

LONGEST = 4096
"""Characters of an operator's text at most."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of a model and the operations after it that a runtime fuses with it.

    Two operators that are told alike take as long as each other. What does not change the time is
    left out: values, names, and a batch norm that is folded into a weight.

    Args:
        kind: one of `ATTRIBUTES`.
        shapes: of the tensors that it is given, weights left out; a batch is in them.
        attributes: by name, those that its kind has, each a number or several.
        after: kinds that are fused with it, in order; of ``"add"`` the other tensor has the shape
            of the answer.

    Raises:
        ConfigError: no such kind, or attributes that do not fit it.

    Example:
        >>> found = Operator("linear", ((1, 512),), {"out": (10,)}, ("relu",))
        >>> str(found)
        'linear 1x512 out=10 + relu'
        >>> Operator.read(str(found)) == found
        True
    """

    kind: str
    shapes: tuple[Shape, ...]
    attributes: Mapping[str, tuple[int, ...]]
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ATTRIBUTES:
            raise ConfigError(
                f"there is no operator {quoted(self.kind)}{near(self.kind, ATTRIBUTES)}; expected "
                f"one of {', '.join(ATTRIBUTES)}"
            )
        asked = ATTRIBUTES[self.kind]
        if tuple(sorted(self.attributes)) != asked:
            raise ConfigError(
                f"the operator {self.kind} has {', '.join(sorted(self.attributes)) or 'nothing'}; "
                f"expected {', '.join(asked) or 'nothing'} besides shapes"
            )
        if wrong := [each for each in self.after if each not in FUSED]:
            raise ConfigError(f"{quoted(wrong[0])} is not fused with others")
        _check_sizes(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, shape)) for shape in self.shapes)
        values = [f"{name}={'x'.join(map(str, v))}" for name, v in sorted(self.attributes.items())]
        first = " ".join([self.kind, shapes, *values])
        return " + ".join([first, *self.after])

    def of(self, name: str) -> int:
        """An attribute that is one number."""
        return self.attributes[name][0]

    @classmethod
    def read(cls, text: str) -> Operator:
        """An operator from its text, which may come from anywhere.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(text, str) or len(text) > LONGEST or not _TEXT.fullmatch(text):
            raise ConfigError(
                f"{quoted(text)} is no operator; expected a text such as 'linear 1x512 out=10 + "
                "relu'"
            )
        first, *after = text.split(" + ")
        kind, shapes, *values = first.split(" ")
        named = dict(value.split("=") for value in values)
        return cls(
            kind,
            tuple(map(_numbers, shapes.split(","))),
            {name: _numbers(value) for name, value in named.items()},
            tuple(after),
        )


def answer_of(operator: Operator) -> Shape:
    """The shape of a convolution's answer.

    Example:
        >>> answer_of(Operator.read(
        ...     "conv 1x3x8x8 dilation=1x1 groups=1 kernel=3x3 out=8 pad=1x1 stride=2x2"))
        (1, 8, 4, 4)
    """
    a, (rows, _, *sides) = operator.attributes, operator.shapes[0]
    made = [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            sides, a["pad"], a["dilation"], a["kernel"], a["stride"], strict=True
        )
    ]
    return (rows, operator.of("out"), *made)


def _check_sizes(operator: Operator) -> None:
    """Make sure that an operator can be, and is not too large to be made."""
    kind, a, shapes = operator.kind, operator.attributes, operator.shapes
    if not shapes or any(
        min(shape, default=0) < 0 or math.prod(shape) > LARGEST for shape in shapes
    ):
        raise ConfigError(
            f"the operator {kind} has shapes {quoted(shapes)}; expected one at least, of at most "
            f"{LARGEST} numbers each"
        )
    if small := [name for name in AT_LEAST_ONE if min(a.get(name, (1,))) < 1]:
        raise ConfigError(f"the operator {kind} has {small[0]}={a[small[0]]}; expected 1 or more")
    sides, least = len(shapes[0]) - 2, 0 if "out" in a else -2
    if sides < least or any(len(a[name]) != sides for name in WINDOW if name in a):
        raise ConfigError(f"the operator {quoted(str(operator))} does not fit its first shape")
    if not _TEXT.fullmatch(text := str(operator)) or len(text) > LONGEST:
        raise ConfigError(
            f"the operator {kind} has a text of {len(text)} characters, {quoted(text)}; expected "
            f"at most {LONGEST}, 256 shapes, and numbers of 10 digits"
        )
    if _weights(operator) > LARGEST:
        raise ConfigError(
            f"the operator {quoted(str(operator))} has {_weights(operator)} weights; expected at "
            f"most {LARGEST}"
        )


def _weights(operator: Operator) -> int:
    """How many numbers its weight has."""
    a = operator.attributes
    if operator.kind == "embedding":
        return operator.of("rows") * operator.of("width")
    inner = operator.shapes[0][1] // a.get("groups", (1,))[0] if "out" in a else 0
    return inner * math.prod((*a.get("out", ()), *a.get("kernel", ())))


_NUMBERS = r"-?\d{1,10}(x-?\d{1,10}){0,15}"
_TEXT = re.compile(
    rf"[a-z_]+ {_NUMBERS}(,{_NUMBERS}){{0,255}}( [a-z]+={_NUMBERS})*( \+ [a-z_]+){{0,4}}", re.ASCII
)


def _numbers(text: str) -> Shape:
    return tuple(map(int, text.split("x")))
