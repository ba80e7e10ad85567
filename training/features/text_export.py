"""A folder of sentence-transformers as a text encoder for bundles: graph, tokenizer, and how both are used.

L: tokens of a sentence, T: text vector.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.bundle import TextEncoderFiles
from model.errors import DataError, MissingDependencyError
from model.text.encoder import EncoderSpec, Pooling
from training.features.text_encoder import SentenceEncoder, load_text_encoder, write_text_encoder
from training.features.transformer import TransformerConfig, TransformerEncoder
from training.onnx_files import to_onnx

TOLERANCE = 1e-5  # of the largest number
_POOLING: dict[str, Pooling] = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
_PREFIXES = ("bert.", "roberta.", "auto_model.", "0.auto_model.")
_UNUSED = ("pooler.", "embeddings.position_ids", "cls.", "lm_head.")
_SHOWN = 5  # weights named in an error


def export_text_encoder(folder: Path, out: Path, *, template: str | None = None) -> SentenceEncoder:
    """Write the encoder of a folder as an ONNX file with its JSON and tokenizer, and hold it against torch.

    Args:
        folder: as sentence-transformers saves it: `modules.json` with a transformer of the BERT family, pooling and
            perhaps normalisation; `config.json`, `tokenizer.json`, and weights as `model.safetensors` or
            `pytorch_model.bin`.
        out: the ONNX file; the others go beside it. What is there is replaced.
        template: what is encoded, with the text in place of `{}`; by default the prompt that the folder names.

    Returns:
        The encoder, as :func:`training.features.text_encoder.load_text_encoder` reads it.

    Raises:
        DataError: `out` does not end in `.onnx`, a file of the folder is missing or says what is not supported, or
            ONNX Runtime and torch differ by more than `TOLERANCE` of the largest number.
        MissingDependencyError: `tokenizers` or `safetensors` is not installed.
    """
    if out.suffix != ".onnx":
        raise DataError(f"{out}: expected a file name that ends in .onnx")
    transformer, pooling, normalise = _modules(folder)
    settings = _json(transformer / "sentence_bert_config.json", optional=True)
    config = TransformerConfig.from_json(_json(transformer / "config.json"))
    try:
        spec = EncoderSpec(
            dimension=config.hidden,
            max_tokens=min(int(settings.get("max_seq_length") or config.longest), config.longest),
            pooling=pooling,
            normalise=normalise,
            template=_prompt(folder) if template is None else template,
        )
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from None
    network = TransformerEncoder(config).eval()
    _load(network, transformer)
    # Unlike the lengths that are compared below, so that a length that was built in shows.
    example = {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}
    graph = to_onnx(network, example, ["token_embeddings"], dynamic=("batch", "tokens")).SerializeToString()
    tokenizer = _tokenizer(transformer / "tokenizer.json", lowercase=bool(settings.get("do_lower_case")))
    draft = out.with_name(f"{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write_text_encoder(TextEncoderFiles(graph=graph, tokenizer=tokenizer, spec=spec), draft / out.name)
        compare(network, load_text_encoder(draft / out.name), config)
    finally:
        shutil.rmtree(draft)
    write_text_encoder(TextEncoderFiles(graph=graph, tokenizer=tokenizer, spec=spec), out)
    return load_text_encoder(out)


def compare(network: TransformerEncoder, written: SentenceEncoder, config: TransformerConfig) -> float:
    """The largest difference between torch and ONNX Runtime for random tokens, relative to the largest number.

    Raises:
        DataError: it is above `TOLERANCE`, or a number is not finite.
    """
    random = np.random.default_rng(0)
    largest = 0.0
    for tokens in sorted({3, 8, written.encoder.spec.max_tokens}):
        ids = random.integers(0, config.vocabulary, (1, tokens))
        with torch.inference_mode():
            expected = network(torch.from_numpy(ids)).numpy()
        if not np.isfinite(expected).all():
            raise DataError("the encoder gives numbers that are not finite; are its weights sound?")
        actual = written.encoder.run(ids)
        difference = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-12))
        if not difference <= TOLERANCE:
            raise DataError(
                f"{written.path}: ONNX Runtime and torch differ by {difference:.2e} of the largest number for "
                f"{tokens} tokens, at most {TOLERANCE:.0e} is allowed"
            )
        largest = max(largest, difference)
    return largest


def _modules(folder: Path) -> tuple[Path, Pooling, bool]:
    """Folder of the transformer, the pooling, and whether vectors are normalised."""
    listed = _json(folder / "modules.json", of=list)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in listed]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise DataError(
            f"{folder / 'modules.json'}: expected the modules Transformer, Pooling and perhaps Normalize, got "
            f"{', '.join(kinds) or 'none'}"
        )
    pooling = _json(folder / str(listed[1]["path"]) / "config.json")
    chosen = [mode for name, mode in _POOLING.items() if pooling.get(f"pooling_mode_{name}")]
    others = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or len(others) != 1:
        raise DataError(
            f"{folder / str(listed[1]['path']) / 'config.json'}: expected one pooling mode of "
            f"{', '.join(_POOLING)}, got {', '.join(others) or 'none'}"
        )
    return folder / str(listed[0]["path"]), chosen[0], len(kinds) == 3


def _prompt(folder: Path) -> str:
    """The template of the prompt that is used where none is named."""
    settings = _json(folder / "config_sentence_transformers.json", optional=True)
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    return f"{prompts[name]}{{}}" if name in prompts else "{}"


def _load(network: TransformerEncoder, folder: Path) -> None:
    file, given = _weights(folder)
    state: dict[str, torch.Tensor] = {}
    for key, tensor in given.items():
        name = key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if not name.startswith(_UNUSED):
            state[name] = tensor.float()
    wanted = network.state_dict()
    faults = [
        f"{what}: {', '.join(keys[:_SHOWN])}{f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''}"
        for what, keys in (
            ("missing", [key for key in wanted if key not in state]),
            ("unexpected", [key for key in state if key not in wanted]),
            ("other shapes", [key for key in state if key in wanted and state[key].shape != wanted[key].shape]),
        )
        if keys
    ]
    if faults:
        raise DataError(f"{file}: the weights are not those of config.json: {'; '.join(faults)}")
    network.load_state_dict(state)


def _weights(folder: Path) -> tuple[Path, Mapping[str, torch.Tensor]]:
    """The file with the weights and what it holds; no code in it is run."""
    file = folder / "model.safetensors"
    try:
        if file.is_file():
            from safetensors.torch import load_file

            return file, load_file(file)
        file = folder / "pytorch_model.bin"
        if file.is_file():
            return file, torch.load(file, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"reading {file} needs {error.name}: install the extra `training`") from None
    except Exception as error:  # what a damaged file makes the readers raise has no common class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file}: not readable as weights: {reason}") from None
    raise DataError(f"{folder}: expected model.safetensors or pytorch_model.bin, found neither")


def _tokenizer(file: Path, *, lowercase: bool) -> bytes:
    """The tokenizer without cutting and padding, which the service must not do."""
    fields = {**_json(file), "truncation": None, "padding": None}
    if lowercase:  # sentence-transformers does so before the tokenizer
        first, own = {"type": "Lowercase"}, fields.get("normalizer")
        fields["normalizer"] = {"type": "Sequence", "normalizers": [first, own]} if own else first
    return json.dumps(fields, ensure_ascii=False).encode()


def _json(file: Path, *, of: type = dict, optional: bool = False) -> Any:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise DataError(f"{file}: no such file; expected a folder of sentence-transformers") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, of):
        raise DataError(f"{file}: expected JSON of the type {of.__name__}, got {type(found).__name__}")
    return found
