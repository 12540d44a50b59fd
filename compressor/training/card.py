"""MODEL_CARD.md: what a person who is handed the model wants to know first."""

from __future__ import annotations

from ..model import ModelManifest


def model_card(manifest: ModelManifest) -> str:
    """The card as Markdown, from the manifest alone."""
    data, code, facts = manifest.data, manifest.code, manifest.training
    size = "x".join(map(str, data.shape))
    if data.stride is not None:
        size += " (trained on; other sizes work too)"
    loss, kind = facts["validation_loss"], data.kind
    stored = "uint8 images (N, H, W, C)" if kind == "image" else "float32 vectors (N, D)"
    apart = "one grey level" if kind == "image" else "1e-4 of a column's scale"
    rows = [
        (
            "Plugin",
            f"{manifest.plugin.name} ({manifest.plugin.distribution} {manifest.plugin.version})",
        ),
        (f"{kind.capitalize()}s", size),
        (
            f"Code of one {kind}",
            "x".join(map(str, code.shape)) + " integers, "
            f"{manifest.quantiser['bits_per_image']:.1f} bits on validation data",
        ),
        ("Parameters", f"{facts['parameters']:,}"),
        (
            "Trained on",
            f"{facts['images']:,} {kind}s, {facts['steps']:,} steps, "
            f"{facts['seconds']:.0f} s, seed {facts['seed']}",
        ),
        ("Validation loss", "none" if loss is None else f"{loss:.5g} for each {kind}"),
        ("Scores of scorer.onnx", ", ".join(manifest.scores)),
        *((name, f"{value:.4g}") for name, value in facts.get("measures", {}).items()),
    ]
    decoder = "`decoder.onnx` turns codes back"
    limit = ":\nlook at what `compressor compress --measure` says before you delete originals"
    if manifest.quantiser["psnr"] is None:
        decoder, limit = "which nothing turns back, since features are rebuilt", ""
    config = "\n".join(f"- {name}: {value}" for name, value in manifest.config.items())
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""# {manifest.plugin.name} autoencoder

| | |
|---|---|
{table}

## Configuration
{config}

## Use
The ONNX graphs need nothing but an ONNX runtime. `encoder.onnx` turns {stored} into
integer codes, {decoder}, and `scorer.onnx` gives one raw score for each name
above, higher is stranger, and an error map. `golden.npz` holds a few {kind}s with the answers to
expect; runtimes differ by at most {apart}. In OpenVINO set `INFERENCE_PRECISION_HINT` to `f32`.

## Limits
The model knows {kind}s like those it was trained on. What it has not seen it rebuilds badly{limit}.
"""
