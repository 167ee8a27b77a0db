"""The fields a model was asked for: which of its outputs they are and what form they have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash
from torch import Tensor

from pantheon.codec import Codec, spec_for
from pantheon.errors import ModelError, SchemaError
from pantheon.knowledge import Ragged, Value
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.scoring.outputs import Form, as_value, by_name, form_of

Schema = Mapping[str, Codec | str | FieldSpec | None]
"""What a user writes as ``schema=``: a codec, its name, a whole specification or None by field."""


def labels_fingerprint(
    labels: Mapping[str, Sequence[str] | str] | None,
) -> dict[str, str]:
    """xxh3_64 of each list of classes or tokens; a text is taken as a fingerprint already.

    Example:
        >>> labels_fingerprint({"logits": "imagenet-1k"})
        {'logits': 'imagenet-1k'}
    """
    return {
        name: value
        if isinstance(value, str)
        else str(xxhash.xxh3_64_hexdigest(json.dumps(list(value)).encode()))
        for name, value in (labels or {}).items()
    }


class FieldPlan:
    """Names outputs, and learns their forms from the first forward.

    Args:
        asked: the user's schema, None for every output.
        features: fields that come from inner modules.
        labels: fingerprint of the classes by field.
    """

    def __init__(
        self, asked: Schema | None, features: tuple[str, ...], labels: Mapping[str, str]
    ) -> None:
        self.asked = None if asked is None else dict(asked)
        self.features = features
        self.labels = dict(labels)
        self.forms: dict[str, Form] = {}
        self.per_position: frozenset[str] | None = None
        unknown = [n for n in labels if asked is not None and n not in {*asked, *features}]
        if unknown or (asked is not None and not asked and not features):
            raise SchemaError(
                f"labels= names {', '.join(unknown)}, which the schema does not have"
                if unknown
                else "schema= is empty; name at least one field, such as {'logits': 'float32'}"
            )

    def features_of(self, names: tuple[str, ...] | None) -> tuple[str, ...]:
        """The features among the fields wanted."""
        return self.features if names is None else tuple(n for n in self.features if n in names)

    def outputs(
        self, output: Any, features: Mapping[str, Any], names: tuple[str, ...] | None
    ) -> dict[str, Value]:
        """The fields wanted, from what the model returned and what its parts did."""
        missing = [n for n in self.features_of(names) if n not in features]
        if missing:
            raise ModelError(
                f"feature {missing[0]!r}: its module did not run in this forward; name one that "
                "always does"
            )
        own = None if self.asked is None else [n for n in self.asked if n not in self.features]
        found = by_name(output, own) if own is None or own else {}
        found = {n: v for n, v in {**found, **features}.items() if names is None or n in names}
        return {name: as_value(name, value) for name, value in found.items()}

    def ragged(self, name: str, value: Value, lengths: Tensor | None) -> Value:
        """A value per position, cut to the samples' lengths; any other value as it is."""
        if lengths is None or self.per_position is None or name not in self.per_position:
            return value
        return Ragged.from_padded(value, lengths) if isinstance(value, Tensor) else value

    def learn(self, values: Mapping[str, Value]) -> KnowledgeSchema:
        """The schema of the values of a first forward, whose forms later ones must have."""
        specs = []
        for name, value in values.items():
            asked = (self.asked or {}).get(name)
            codec = asked.codec if isinstance(asked, FieldSpec) else asked
            spec = spec_for(name, codec, value, self.labels.get(name))
            if isinstance(asked, FieldSpec) and spec != asked:
                raise SchemaError(
                    f"field {name!r}: its schema says {asked}, the model gives {spec}"
                )
            specs.append(spec)
            self.forms[name] = form_of(value)
        return KnowledgeSchema(tuple(specs))

    def stated(self) -> KnowledgeSchema | None:
        """The schema, when the user wrote a whole specification for every field."""
        specs = [s for s in (self.asked or {}).values() if isinstance(s, FieldSpec)]
        complete = self.asked and len(specs) == len({*self.asked, *self.features})
        return KnowledgeSchema(tuple(specs)) if complete else None
