"""MLServer with its adaptive batching; images in base64, as the Open Inference Protocol's JSON has them."""

from __future__ import annotations

import base64

import numpy as np
from common import Classifier, Head
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.classifier, self.head = Classifier(), Head()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        found = self.classifier.classify(np.stack([self.head.read(base64.b64decode(text)) for text in texts]))
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("class", found)])
