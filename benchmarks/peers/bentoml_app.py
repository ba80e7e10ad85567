"""BentoML: images are decoded as they come, the network has BentoML's adaptive batching."""

from __future__ import annotations

from pathlib import Path

import bentoml
import numpy as np
from common import BATCH, Classifier, Head


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 10_000})
class Network:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=600_000)
    def embed(self, images: np.ndarray) -> np.ndarray:
        return np.array(self.classifier.classify(images.astype(np.float32, copy=False)))


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 10_000})
class Service:
    network = bentoml.depends(Network)

    def __init__(self) -> None:
        self.head = Head()

    @bentoml.api
    async def classify(self, image: Path) -> str:
        found = await self.network.to_async.embed(self.head.read(image.read_bytes())[None])
        return str(found[0])
