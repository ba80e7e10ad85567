"""LitServe with its batching; images in base64, since it takes JSON."""

from __future__ import annotations

import base64
from typing import Any

import litserve
import numpy as np
from common import BATCH, PORT, Classifier, Head


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002  # named so by LitServe
        self.classifier, self.head = Classifier(), Head()

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return self.head.read(base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> list[str]:
        return self.classifier.classify(x)

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"class": output}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=0.02)
    litserve.LitServer(api, accelerator="cpu", timeout=600).run(
        port=PORT, host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
