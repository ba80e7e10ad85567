"""What every peer serves: the same decoding, the same ONNX file with the same threads, the same rows of the head."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from model.preprocess import PreprocessSpec, preprocess

BUNDLE = Path(os.environ["PEER_BUNDLE"])
THREADS, BATCH, PORT = (int(os.environ[f"PEER_{name}"]) for name in ("THREADS", "BATCH", "PORT"))


class Classifier:
    """Image files to the names of classes."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            str(BUNDLE / "trunk.onnx"), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._head = Head()

    def classify(self, images: np.ndarray) -> list[str]:
        """The best class of each input, [N, 3, S, S]."""
        return self._head.best(self._session.run(["embedding"], {"image": images})[0])


class Head:
    """Inputs before the network and rows behind it."""

    def __init__(self) -> None:
        manifest = json.loads((BUNDLE / "manifest.json").read_text())
        self._spec = PreprocessSpec.from_json(manifest["preprocess"])
        self._names = [entry["name"] for entry in manifest["classes"]]
        with np.load(BUNDLE / "head.npz") as arrays:
            self._weight, self._bias = arrays["weight"], arrays["bias"]

    def read(self, data: bytes) -> np.ndarray:
        """An image file as an input, [3, S, S]."""
        return preprocess(data, self._spec)

    def best(self, embedding: np.ndarray) -> list[str]:
        """The best class of each embedding, [N, Z]."""
        return [self._names[i] for i in (embedding @ self._weight.T + self._bias).argmax(axis=1)]
