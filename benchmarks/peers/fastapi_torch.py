"""Plain FastAPI and torch in its eager mode."""

from __future__ import annotations

import os

import numpy as np
import torch
import torchvision
from common import THREADS, Head
from plain_fastapi import serve

torch.set_num_threads(THREADS)
network = torchvision.models.resnet101()
network.load_state_dict(torch.load(os.environ["PEER_WEIGHTS"], weights_only=True))
network.fc = torch.nn.Identity()
network.eval()
head = Head()


def classify(images: np.ndarray) -> list[str]:
    with torch.inference_mode():
        return head.best(network(torch.from_numpy(images)).numpy())


if __name__ == "__main__":
    serve(head, classify)
