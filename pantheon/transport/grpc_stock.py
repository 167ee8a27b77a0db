"""What a gRPC connection does while it is up, with a stock server (Triton, KServe, MLServer).

Such a server knows no Hello: its Welcome is made from its model's metadata, its answers to single
calls become Scored, and heartbeats are said for it while calls are in flight.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from pantheon.errors import ProtocolError, SchemaError
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.transport import oip
from pantheon.transport.grpc_session import Session
from pantheon.transport.inbox import Inbox
from pantheon.transport.oip_messages import INPUT
from pantheon.transport.oip_tensors import dtype_of, read_tensors, write_tensors
from pantheon.wire.messages import (
    Cancel,
    Heartbeat,
    Hello,
    Inquiry,
    Message,
    RawTensor,
    Refused,
    Score,
    Scored,
    Welcome,
)

logger = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between heartbeats, and between looks whether the server is alive."""

METADATA_S = 10.0
ANSWER_S = 600.0
"""Seconds after which a call is given up."""

_CODES = {
    grpc.StatusCode.NOT_FOUND: "model",
    grpc.StatusCode.UNIMPLEMENTED: "model",
    grpc.StatusCode.INVALID_ARGUMENT: "inputs",
    grpc.StatusCode.OUT_OF_RANGE: "inputs",
    grpc.StatusCode.UNAVAILABLE: "busy",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",
}


@dataclass(frozen=True, slots=True)
class StockModel:
    """A stock server's model, from its metadata.

    Args:
        name: of the model.
        inputs: our dtypes by input name.
        schema: its outputs as fields; the first dimension is the batch's.
    """

    name: str
    inputs: dict[str, str]
    schema: KnowledgeSchema

    @classmethod
    def read(cls, metadata: Any) -> StockModel:
        """Read a ``ModelMetadataResponse``.

        Raises:
            ProtocolError: a datatype we do not carry.
            SchemaError: no outputs, or dimensions that are not fixed; says how to state them.
        """
        inputs = {t.name: dtype_of(t.datatype, t.name) for t in metadata.inputs}
        if not metadata.outputs:
            raise SchemaError(
                f"the server's metadata of model {metadata.name!r} names no outputs; state their "
                "names, datatypes and shapes in the model's configuration"
            )
        fields = tuple(_field(metadata.name, output) for output in metadata.outputs)
        return cls(metadata.name, inputs, KnowledgeSchema(fields))

    def name_inputs(self, inputs: dict[str, RawTensor]) -> dict[str, RawTensor]:
        """Inputs under the server's names (``""``: its only one); `SchemaError` if they differ."""
        if set(inputs) == {""} and len(self.inputs) <= 1:
            inputs = {next(iter(self.inputs), INPUT): inputs[""]}
        if self.inputs and set(inputs) != set(self.inputs):
            raise SchemaError(
                f"model {self.name!r} takes the inputs {sorted(self.inputs)}, found "
                f"{sorted(inputs)}; give the dataset's items these names"
            )
        for name, dtype in self.inputs.items():
            if inputs[name].dtype != dtype:
                raise SchemaError(
                    f"input {name!r} of model {self.name!r} must be {dtype}, found "
                    f"{inputs[name].dtype}; convert it in the dataset"
                )
        return inputs


def _field(model: str, output: Any) -> FieldSpec:
    dtype, shape = dtype_of(output.datatype, output.name), tuple(output.shape[1:])
    if any(d < 0 for d in shape):
        raise SchemaError(
            f"output {output.name!r} of model {model!r} has the shape {list(output.shape)} in the "
            "server's metadata; all dimensions but the first must be stated"
        )
    halves = ("float16", "bfloat16")
    codec = dtype if dtype in (*halves, "float32") else "raw"
    return FieldSpec(output.name, "float32" if dtype in halves else dtype, shape, codec)


class StockSession(Session):
    """Single calls to a stock server.

    Args:
        stub: the server's methods.
        inbox: where messages go.
        model: what the address names.
    """

    def __init__(self, stub: oip.Stub, inbox: Inbox, model: str) -> None:
        self._stub = stub
        self._inbox = inbox
        self._name = model
        self._model: StockModel | None = None
        self._calls: dict[int, Any] = {}
        self._over = threading.Event()

    def send(self, message: Message) -> bool:
        """Do what the message asks; the answer comes through the inbox. It has none to Inquiry."""
        if self._over.is_set() or isinstance(message, Inquiry):
            return False
        if isinstance(message, Hello):
            self._greet(message)
        elif isinstance(message, Score):
            self._score(message)
        elif isinstance(message, Cancel):
            for request in message.requests:
                if (call := self._calls.pop(request, None)) is not None:
                    call.cancel()
        return True

    def _greet(self, hello: Hello) -> None:
        request = oip.ModelMetadataRequest(name=hello.model or self._name)
        call = self._stub.ModelMetadata.future(request, timeout=METADATA_S)
        call.add_done_callback(lambda done: self._answer(None, done, self._welcome(hello)))

    def _welcome(self, hello: Hello) -> Callable[[Any], Message]:
        def make(metadata: Any) -> Message:
            model = StockModel.read(metadata)
            if hello.fields is not None:
                schema = model.schema.select(hello.fields)
                model = StockModel(model.name, model.inputs, schema)
            self._model = model
            return Welcome(model.name, "", model.schema, accepts_ids=False, heartbeat=BEAT_S)

        return make

    def _score(self, score: Score) -> None:
        model = self._model
        if model is None:
            self._inbox.put(Refused(score.request, "hello", "say Hello and wait for Welcome first"))
            return
        try:
            request = _infer_request(model, score)
        except SchemaError as error:
            self._inbox.put(Refused(score.request, "inputs", str(error)))
            return
        call = self._stub.ModelInfer.future(request, timeout=ANSWER_S)
        self._calls[score.request] = call
        make = _scored(model, score.request, request.inputs[0].shape[0])
        call.add_done_callback(lambda done: self._answer(score.request, done, make))

    def _answer(self, request: int | None, done: Any, make: Callable[[Any], Message]) -> None:
        """Runs in gRPC's thread when a call is done: put its outcome into the inbox."""
        if request is not None and self._calls.pop(request, None) is None:
            return
        try:
            message = make(done.result())
        except grpc.FutureCancelledError:
            return
        except grpc.RpcError as error:
            code = _CODES.get(error.code(), "error")
            message = Refused(request, code, f"{error.code().name}: {error.details()}")
        except (ProtocolError, SchemaError) as error:
            code = "schema" if request is None else "wrong"
            message = Refused(request, code, str(error))
        self._inbox.put(message)

    def run(self) -> str:
        """Look every `BEAT_S` seconds whether the server is alive, and say what is in flight."""
        while not self._over.wait(BEAT_S):
            self._stub.ServerLive(oip.ServerLiveRequest(), timeout=METADATA_S)
            if self._calls:
                self._inbox.put(Heartbeat(tuple(self._calls)))
        return "closed"

    def close(self) -> None:
        """End `run`; calls in flight are cancelled with their channel."""
        self._calls.clear()
        self._over.set()


def _infer_request(model: StockModel, score: Score) -> Any:
    if score.ids is not None:
        raise SchemaError(
            f"model {model.name!r} is served by a stock server, which has no dataset: send inputs, "
            "not ids"
        )
    request = oip.ModelInferRequest(model_name=model.name, id=str(score.request))
    if not score.inputs or any(not tensor.shape for tensor in score.inputs.values()):
        raise SchemaError("a request must carry inputs whose first dimension counts samples")
    named = model.name_inputs(score.inputs)
    write_tensors(named.items(), request.inputs, request.raw_input_contents)
    for name in model.schema.names:
        request.outputs.add(name=name)
    return request


def _scored(model: StockModel, request: int, rows: int) -> Callable[[Any], Message]:
    def make(response: Any) -> Message:
        found = read_tensors(response.outputs, response.raw_output_contents)
        missing = [name for name in model.schema.names if name not in found]
        if missing:
            raise SchemaError(f"the answer has no output {missing}; it has {sorted(found)}")
        parts = tuple(found[name] for name in model.schema.names)
        return Scored(request, "", rows, parts)

    return make
