"""`d3gzsl bundle`: look into a bundle, and prove that it is whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.output import AsJson, print_json, print_line, print_table

if TYPE_CHECKING:
    from model.photos import PhotoPrior
    from model.text.encoder import EncoderSpec

app = typer.Typer(no_args_is_help=True, help="Look into bundles.")
Directory = Annotated[Path, typer.Argument(help="Bundle directory.", show_default=False)]


@app.command()
def inspect(
    directory: Directory,
    full: Annotated[
        bool, typer.Option("--full", help="Show every result, also those of each class, and every attribute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a bundle says about itself; its files are not read."""
    from model.bundle import precisions_of, read_manifest

    manifest = read_manifest(directory)
    trunks = " and ".join(precisions_of(manifest))
    if as_json:
        print_json(manifest.to_json())
        return
    kinds = Counter(entry.kind for entry in manifest.classes)
    spec, head = manifest.preprocess, manifest.head
    rows: list[tuple[str, Any]] = [
        ("bundle", manifest.bundle_id),
        ("written by", f"d3gzsl {manifest.code_version}"),
        ("backbone", f"{manifest.backbone.name}, {manifest.backbone.feature_dim} features, in {trunks}"),
        ("images", f"{spec.size} x {spec.size}, shorter side to {spec.resize}, {spec.interpolation}"),
        ("attributes", f"{len(manifest.vocabulary)}; {_text(manifest.text_encoder)}"),
        ("classes", f"{kinds['seen']} seen, {kinds['unseen']} unseen"),
        ("head", f"{head.kind}, {head.dimension} dimensions, {head.samples} samples per class"),
        ("photos of a class", _photos(head.photos)),
        ("seen penalty", f"{manifest.calibration.seen_penalty:g}; temperature {manifest.calibration.temperature:g}"),
        ("novelty by", manifest.novelty or "no score: none told unseen classes apart"),
        ("examples", len(manifest.examples)),
    ]
    lines = _metric_lines("", manifest.metrics)
    shown = lines if full else [line for line in lines if _is_main(line[0], served=head.kind)]
    data = manifest.training.get("data")
    if isinstance(data, dict) and data.get("commit"):
        rows.append(("commit", data["commit"]))
    print_table(("", str(directory)), [*rows, *shown])
    if full:
        columns = ("attribute", "min", "max", "mean", "unit", "description")
        attributes = [
            (a.name, f"{a.min:g}", f"{a.max:g}", f"{a.mean:.4g}", a.words.unit, a.words.description)
            for a in manifest.vocabulary.attributes
        ]
        print_table(columns, attributes)
    if head.kind in manifest.metrics:
        print_line(
            "Measured with this bundle's own rows. `d3gzsl-train evaluate` draws other noise for the rows of unseen "
            "classes, so its U, S and H may differ a little."
        )
    if len(shown) < len(lines):
        print_line(f"{len(lines) - len(shown)} more results with --full.")


@app.command()
def sign(
    directory: Directory,
    key: Annotated[Path, typer.Option(help="PEM file of a private Ed25519 key.", show_default=False)],
) -> None:
    """Sign a bundle, so that a service can be told to take no other."""
    from model.bundle import Bundle
    from model.manifest import SIGNATURE
    from service import signatures

    bundle = Bundle.load(directory)
    signatures.sign(directory, key)
    print_line(f"bundle {bundle.manifest.bundle_id} is signed: {directory / SIGNATURE}")


@app.command()
def verify(
    directory: Directory,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file of a public Ed25519 key; one of them must have signed the bundle. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the signature where a key is given, every file's hash, every shape, the head, and that every graph runs."""
    from model.bundle import Bundle
    from model.outside.threads import available_cpus
    from service import signatures
    from service.inference.engine import OnnxEngine

    signer = signatures.check(directory, key) if key else None
    bundle = Bundle.load(directory)
    OnnxEngine(bundle, threads=available_cpus())
    if as_json:
        signed = {} if signer is None else {"signed_by": str(signer)}
        print_json({"bundle": bundle.manifest.bundle_id, "files": len(bundle.manifest.files), "ok": True, **signed})
    else:
        by = "" if signer is None else f"; signed by {signer}"
        print_line(
            f"bundle {bundle.manifest.bundle_id} is whole: {len(bundle.manifest.files)} files, every graph runs{by}"
        )


def _text(encoder: EncoderSpec | None) -> str:
    if encoder is None:
        return "no text"
    return f"text, as {encoder.dimension} numbers, at most {encoder.max_tokens} tokens"


def _photos(prior: PhotoPrior | None) -> str:
    return "not taken" if prior is None else f"taken; its description counts as {prior.described:g} of them"


def _is_main(name: str, *, served: str) -> bool:
    """Whether a result is one of the few that say most."""
    owner, _, number = name.rpartition(".")
    if owner.endswith("uncalibrated"):
        return False
    return number in ("U", "S", "H") if owner == served else number == "H" or name == "novelty.auroc"


def _metric_lines(prefix: str, metrics: Any) -> list[tuple[str, Any]]:
    """Nested metrics as one line each."""
    if not isinstance(metrics, dict):
        return [(prefix, f"{metrics:.4g}" if isinstance(metrics, float) else metrics)]
    return [line for name, value in metrics.items() for line in _metric_lines(f"{prefix}.{name}".lstrip("."), value)]
