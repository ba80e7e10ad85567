"""The transformer encoder of BERT (Devlin et al., NAACL 2019) with the names that Hugging Face gives its weights.

Plain torch: it takes one sentence length at a time without padding, so that no mask is needed, and gives a graph of
standard operators. RoBERTa's networks differ from BERT's in where positions begin to count.

N: sentences, L: tokens, T: hidden size, H: heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import DataError

_OWN_POSITIONS = ("roberta", "xlm-roberta", "camembert")
_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What `config.json` says of an encoder of the BERT family.

    Attributes:
        vocabulary: number of tokens.
        hidden: T.
        layers: number of layers.
        heads: H.
        inner: width of the feed-forward layers.
        activation: of the feed-forward layers.
        epsilon: of the layer normalisations.
        positions: rows of the table of positions.
        first_position: row of the first token.
        kinds: rows of the table of token types, of which the first is used.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    inner: int
    activation: str
    epsilon: float
    positions: int
    first_position: int
    kinds: int

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TransformerConfig:
        """Read Hugging Face's `config.json`.

        Raises:
            DataError: another kind of network, or a field that is missing.
        """
        kind = fields.get("model_type")
        if kind not in ("bert", *_OWN_POSITIONS):
            raise DataError(f"config.json: expected model_type bert or {', '.join(_OWN_POSITIONS)}, got {kind!r}")
        if fields.get("position_embedding_type", "absolute") != "absolute":
            raise DataError("config.json: expected absolute positions")
        if fields.get("hidden_act") not in _ACTIVATIONS:
            known = " or ".join(_ACTIVATIONS)
            raise DataError(f"config.json: expected hidden_act {known}, got {fields.get('hidden_act')!r}")
        try:
            config = cls(
                vocabulary=int(fields["vocab_size"]),
                hidden=int(fields["hidden_size"]),
                layers=int(fields["num_hidden_layers"]),
                heads=int(fields["num_attention_heads"]),
                inner=int(fields["intermediate_size"]),
                activation=fields["hidden_act"],
                epsilon=float(fields["layer_norm_eps"]),
                positions=int(fields["max_position_embeddings"]),
                first_position=int(fields["pad_token_id"]) + 1 if kind in _OWN_POSITIONS else 0,
                kinds=int(fields["type_vocab_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"config.json: a field is missing or has another form: {error}") from None
        if config.hidden % config.heads:
            raise DataError(f"config.json: {config.heads} heads do not divide the hidden size {config.hidden}")
        return config

    @property
    def longest(self) -> int:
        """Most tokens that have a position."""
        return self.positions - self.first_position


class TransformerEncoder(nn.Module):
    """Token ids to token embeddings; a post-norm transformer with learnt positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.first_position = config.first_position
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocabulary, config.hidden),
                "position_embeddings": nn.Embedding(config.positions, config.hidden),
                "token_type_embeddings": nn.Embedding(config.kinds, config.hidden),
                "LayerNorm": nn.LayerNorm(config.hidden, eps=config.epsilon),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.layers))})

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids int64 [N, L] of sentences of one length to embeddings [N, L, T]."""
        table = self.embeddings
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + self.first_position
        kinds = torch.zeros_like(input_ids)
        hidden = table["word_embeddings"](input_ids) + table["token_type_embeddings"](kinds)
        hidden = table["LayerNorm"](hidden + table["position_embeddings"](places))
        layers: Any = self.encoder["layer"]
        for layer in layers:
            hidden = layer(hidden)
        embeddings: Tensor = hidden
        return embeddings


class _Layer(nn.Module):
    """Attention, then a feed-forward network, each added to what goes in and normalised."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, epsilon = config.hidden, config.epsilon
        self.heads = config.heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=epsilon)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, config.inner)})
        self.activation = _ACTIVATIONS[config.activation]()
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(config.inner, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=epsilon)}
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, L, T] to [N, L, T]."""
        projections: Any = self.attention["self"]
        query, key, value = (self._split(projections[name](hidden)) for name in ("query", "key", "value"))
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        context = (weights @ value).transpose(1, 2).flatten(2)
        mixed: Any = self.attention["output"]
        hidden = mixed["LayerNorm"](hidden + mixed["dense"](context))
        inner = self.output["dense"](self.activation(self.intermediate["dense"](hidden)))
        result: Tensor = self.output["LayerNorm"](hidden + inner)
        return result

    def _split(self, values: Tensor) -> Tensor:
        """[N, L, T] to [N, H, L, T / H]."""
        rows, tokens, size = values.shape
        return values.reshape(rows, tokens, self.heads, size // self.heads).transpose(1, 2)
