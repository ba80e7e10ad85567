"""BentoML with its adaptive batching; images in base64, since files are not taken where requests are batched."""

from __future__ import annotations

import base64

import bentoml
import numpy as np
from common import BATCH, Classifier, Head


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 10_000})
class Service:
    def __init__(self) -> None:
        self.classifier, self.head = Classifier(), Head()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=600_000)
    def classify(self, images: list[str]) -> list[str]:
        return self.classifier.classify(np.stack([self.head.read(base64.b64decode(image)) for image in images]))
