"""The Open Inference Protocol v2: its message classes and methods, without generated stubs.

The descriptor (compiled from ``proto/open_inference.proto``) is loaded into a pool of its own, so
that a generated client of the same protocol in the same process does not clash with it.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pantheon.transport.oip_fields import bounded

SERVICE = "inference.GRPCInferenceService"

EXTENSION = "pantheon"
"""What a Pantheon teacher lists among its server's extensions."""

_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    resources.files("pantheon.transport").joinpath("open_inference.binpb").read_bytes()
).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")

METHODS: dict[str, tuple[Any, Any]] = {
    "ServerLive": (ServerLiveRequest, ServerLiveResponse),
    "ServerReady": (ServerReadyRequest, ServerReadyResponse),
    "ServerMetadata": (ServerMetadataRequest, ServerMetadataResponse),
    "ModelReady": (ModelReadyRequest, ModelReadyResponse),
    "ModelMetadata": (ModelMetadataRequest, ModelMetadataResponse),
    "ModelInfer": (ModelInferRequest, ModelInferResponse),
    "ModelStreamInfer": (ModelInferRequest, ModelStreamInferResponse),
}
"""Request and response of every method; only ``ModelStreamInfer`` streams, both ways."""


class Stub:
    """The methods of a server as callables, one attribute each.

    Args:
        channel: an open ``grpc.Channel``.
    """

    def __init__(self, channel: Any) -> None:
        for name, (request, response) in METHODS.items():
            make = channel.stream_stream if name == "ModelStreamInfer" else channel.unary_unary
            call = make(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=bounded(response),
            )
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the Open Inference Protocol has no method {name}")


def handlers(servicer: Any) -> Any:
    """What a ``grpc.Server`` needs to call the methods of `servicer`, named as the protocol's.

    ``ModelInfer`` yields its one answer, which is the same on the wire: so the call lasts until the
    answer was taken, and answers that are not read are bounded as calls are.
    """
    makers = {
        "ModelInfer": grpc.unary_stream_rpc_method_handler,
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler,
    }
    methods = {}
    for name, (request, response) in METHODS.items():
        methods[name] = makers.get(name, grpc.unary_unary_rpc_method_handler)(
            getattr(servicer, name),
            request_deserializer=bounded(request),
            response_serializer=response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(SERVICE, methods)
