"""A model for MLServer, of MLServer and NumPy alone: twelve numbers to four, by a linear map."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Linear(MLModel):
    """``x @ weight + bias``, both made from a seed."""

    async def load(self) -> bool:
        rng = np.random.default_rng(7)
        self.weight = rng.normal(size=(12, 4)).astype(np.float32)
        self.bias = rng.normal(size=4).astype(np.float32)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        logits = NumpyCodec.encode_output("logits", x @ self.weight + self.bias)
        return InferenceResponse(model_name=self.name, outputs=[logits])
