"""A folder of sentence-transformers with a tiny BERT of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.model import tiny_text
from training.features.transformer import TransformerConfig, TransformerEncoder

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": len(tiny_text.SPECIAL) + len(tiny_text.WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
MODULES = ("Transformer", "Pooling", "Normalize")


def network(config: dict[str, Any] = CONFIG, *, seed: int = 0) -> TransformerEncoder:
    """Random weights, large enough that every part shows in what comes out."""
    made = TransformerEncoder(TransformerConfig.from_json(config)).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5)
    return made


def write_folder(
    root: Path,
    *,
    config: dict[str, Any] = CONFIG,
    modules: tuple[str, ...] = MODULES,
    pooling: str = "mean_tokens",
    prefix: str = "",
    binary: bool = False,
    **settings: Any,
) -> Path:
    """Write the folder; `settings` go into `sentence_bert_config.json`."""
    root.mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    state = {f"{prefix}{key}": value.contiguous() for key, value in network(config).state_dict().items()}
    state[f"{prefix}pooler.dense.weight"] = torch.zeros(8, 8)
    if binary:
        torch.save(state, root / "pytorch_model.bin")
    else:
        save_file(state, root / "model.safetensors")
    for kind in modules[1:]:
        (root / f"{modules.index(kind)}_{kind}").mkdir(exist_ok=True)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    documents = {
        "modules.json": listed,
        "config.json": config,
        "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False, **settings},
        "1_Pooling/config.json": {"word_embedding_dimension": 8, **{f"pooling_mode_{m}": m == pooling for m in modes}},
    }
    for name, fields in documents.items():
        (root / name).write_text(json.dumps(fields))
    (root / "tokenizer.json").write_bytes(tiny_text.tokenizer())
    return root
