"""From a call of torch to the operator that a runtime has for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Size

from pantheon.compress.latency_table.operators import Operator, Shape
from pantheon.compress.latency_table.tracing import Call

FREE = frozenset(
    {
        *("_reshape_alias", "_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "copy"),
        *("detach", "dropout", "expand", "flatten", "lift_fresh", "native_dropout", "reshape"),
        *("squeeze", "t", "unflatten", "unsqueeze", "view"),
    }
)
"""Operations that move nothing, or that no exported file has."""


class Unknown(Exception):
    """There is no operator for a call."""


def operator_of(call: Call) -> Operator | None:
    """The operator of a call; None for one that costs nothing.

    Raises:
        Unknown: there is none.

    Example:
        >>> from torch import Size
        >>> call = Call("addmm", {"mat1": Size((1, 8)), "mat2": Size((8, 2))}, (-1,), (1, 2))
        >>> str(operator_of(call))
        'linear 1x8 out=2'
    """
    if call.name in FREE:
        return None
    if call.name in _READERS:
        return _READERS[call.name](call)
    raise Unknown(call.name)


def _made(kind: str, *shapes: Any, **attributes: Any) -> Operator:
    values = {
        name: tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
        for name, value in attributes.items()
    }
    return Operator(kind, tuple(tuple(map(int, shape)) or (1,) for shape in shapes), values)


def _each(value: Any, rank: int) -> list[int]:
    """One number a dimension."""
    every = [*value] if isinstance(value, list | tuple) else [value]
    return every * rank if len(every) == 1 else every


def _convolution(call: Call) -> Operator:
    a = call.args
    weight, groups = a["weight"], a["groups"]
    rank = len(weight) - 2
    given = {
        "groups": groups,
        "kernel": [*weight[2:]],
        "pad": _each(a["padding"], rank),
        "stride": _each(a["stride"], rank),
        "dilation": _each(a["dilation"], rank),
    }
    if a["transposed"]:
        more = _each(a["output_padding"], rank)
        out = weight[1] * groups
        return _made("conv_transpose", a["input"], out=out, more=more, **given)
    return _made("conv", a["input"], out=weight[0], **given)


def _product(call: Call) -> Operator:
    """A product with a weight, or of two tensors that are computed."""
    left, right = (call.args.get(a, call.args.get(b)) for a, b in _SIDES)
    if left is None or right is None:
        raise Unknown(call.name)
    if len(call.reads) == 1 and len(right) == 2:
        return _made("linear", (math.prod(left[:-1]), left[-1]), out=right[1])
    return _made("matmul", left, right)


_SIDES = (("mat1", "self"), ("mat2", "other"))


def _batched(call: Call) -> Operator:
    if call.name == "baddbmm":
        return _made("matmul", call.args["batch1"], call.args["batch2"])
    return _product(call)


def _unary(kind: str) -> Callable[[Call], Operator]:
    return lambda call: _made(kind, call.shape)


def _binary(kind: str) -> Callable[[Call], Operator]:
    def read(call: Call) -> Operator:
        other = call.args.get("other", call.args.get("exponent"))
        return _made(kind, call.args["self"], other if isinstance(other, Size) else (1,))

    return read


def _norm(call: Call) -> Operator:
    return _made("batch_norm", call.args["input"])


def _layer_norm(call: Call) -> Operator:
    given = call.args["input"]
    return _made("layer_norm", given, axis=len(given) - len(call.args["normalized_shape"]))


def _max_pool(call: Call) -> Operator:
    return _pool("max_pool", call)


def _average_pool(call: Call) -> Operator:
    return _pool("average_pool", call)


def _pool(kind: str, call: Call) -> Operator:
    kernel = _each(call.args["kernel_size"], 2)
    stride = _each(call.args.get("stride") or kernel, 2)
    pad = _each(call.args.get("padding", 0), 2)
    dilation = _each(call.args.get("dilation", 1), 2)
    if call.args.get("ceil_mode") or dilation != [1, 1]:
        raise Unknown(f"{call.name} with ceil_mode or dilation")
    return _made(kind, call.args["self"], kernel=kernel, stride=stride, pad=pad)


def _adaptive_pool(call: Call) -> Operator:
    given, size = call.args["self"][-2:], call.shape[-2:]
    if any(whole % part for whole, part in zip(given, size, strict=True)):
        raise Unknown(f"{call.name} whose parts differ in size")
    kernel = [whole // part for whole, part in zip(given, size, strict=True)]
    return _made("average_pool", call.args["self"], kernel=kernel, stride=kernel, pad=[0, 0])


def _mean(call: Call) -> Operator:
    given = call.args["self"]
    every = call.args.get("dim") or [*range(len(given))]
    return _made("mean", given, axes=sorted(_axis(each, given) for each in every))


def _axis(axis: int, shape: Shape) -> int:
    return axis % max(1, len(shape))


def _softmax(call: Call) -> Operator:
    given = call.args["self"]
    return _made("softmax", given, axis=_axis(call.args["dim"], given))


def _concat(call: Call) -> Operator:
    every = [shape for shape in call.args["tensors"] if math.prod(shape)]
    return _made("concat", *every, axis=_axis(call.args.get("dim", 0), call.shape))


def _padded(call: Call) -> Operator:
    given, pairs = call.args["self"], [*call.args["pad"]]
    before, past = [0] * len(given), [0] * len(given)
    for place in range(len(pairs) // 2):
        before[-1 - place], past[-1 - place] = pairs[2 * place], pairs[2 * place + 1]
    return _made("pad", given, before=before, past=past)


def _resized(call: Call) -> Operator:
    given = call.args["input"] if "input" in call.args else call.args["self"]
    if any(new % old for new, old in zip(call.shape, given, strict=True)):
        raise Unknown(f"{call.name} by a fraction")
    return _made("resize", given, factors=[n // o for n, o in zip(call.shape, given, strict=True)])


def _sliced(call: Call) -> Operator | None:
    given, axis = call.args["self"], _axis(call.args.get("dim", 0), call.args["self"])
    length = 1 if call.name == "select" else call.shape[axis]
    return None if length == given[axis] else _made("slice", given, axis=axis, length=length)


def _turned(call: Call) -> Operator | None:
    given = call.args["self"]
    order = [*range(len(given))]
    if call.name == "permute":
        order = [_axis(each, given) for each in call.args["dims"]]
    else:
        one, other = (_axis(call.args[name], given) for name in ("dim0", "dim1"))
        order[one], order[other] = other, one
    moved = [axis for axis in order if given[axis] > 1]
    return None if moved == sorted(moved) else _made("transpose", given, order=order)


def _embedding(call: Call) -> Operator:
    rows, width = call.args["weight"]
    return _made("embedding", call.args["indices"], rows=rows, width=width)


_UNARY = {
    "relu": "relu",
    "hardtanh": "clip",
    "clamp": "clip",
    "relu6": "clip",
    "leaky_relu": "leaky_relu",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    **{name: name for name in ("sigmoid", "tanh", "silu", "gelu", "elu", "softplus", "exp")},
    **{name: name for name in ("log", "sqrt", "neg", "abs", "erf", "reciprocal")},
}

_READERS: Mapping[str, Callable[[Call], Operator | None]] = {
    "convolution": _convolution,
    "addmm": _product,
    "mm": _product,
    "bmm": _batched,
    "baddbmm": _batched,
    "embedding": _embedding,
    "native_batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "_native_batch_norm_legit": _norm,
    "_batch_norm_no_update": _norm,
    "cudnn_batch_norm": _norm,
    "native_layer_norm": _layer_norm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "cat": _concat,
    "constant_pad_nd": _padded,
    "upsample_nearest2d": _resized,
    "upsample_bilinear2d": _resized,
    "slice": _sliced,
    "select": _sliced,
    "permute": _turned,
    "transpose": _turned,
    **{name: _unary(kind) for name, kind in _UNARY.items()},
    **{name: _binary(name) for name in ("add", "sub", "mul", "div")},
    "pow": _binary("pow"),
}
"""By the name of the operation."""
