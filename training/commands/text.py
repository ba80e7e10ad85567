"""`d3gzsl-train text-encoder`: a sentence encoder for descriptions of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import console
from training.commands.options import AsJson


def text_encoder(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A sentence encoder of the BERT family as sentence-transformers saves it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write; its JSON and tokenizer go beside it.")],
    template: Annotated[
        str | None,
        typer.Option(
            help="What is encoded, with the text in place of {}; by default the prompt that the folder names."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a sentence encoder for `extract --text-encoder` and for bundles, after comparing it with torch."""
    from training.features.text_export import export_text_encoder

    made = export_text_encoder(folder, out, template=template)
    spec = made.encoder.spec
    fields = {"out": str(out), **spec.to_json(), "identity": made.encoder.identity}
    console.result(
        fields,
        f"{out}: {spec.dimension} numbers a text, at most {spec.max_tokens} tokens, {spec.pooling} pooling, "
        f"{'normalised' if spec.normalise else 'not normalised'}, identity {made.encoder.identity}",
        as_json=as_json,
    )
