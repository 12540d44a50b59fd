"""MODEL_CARD.md: what a person who is handed the model wants to know first."""

from __future__ import annotations

from ..model import ModelManifest


def model_card(manifest: ModelManifest) -> str:
    """The card as Markdown, from the manifest alone."""
    data, code, facts = manifest.data, manifest.code, manifest.training
    size = f"{data.height}x{data.width}x{data.channels}"
    if data.stride is not None:
        size += f" (trained on; other sizes that {data.stride} divides work too)"
    loss = facts["validation_loss"]
    rows = [
        (
            "Plugin",
            f"{manifest.plugin.name} ({manifest.plugin.distribution} {manifest.plugin.version})",
        ),
        ("Images", size),
        (
            "Code of an image",
            "x".join(map(str, code.shape)) + " integers, "
            f"{manifest.quantiser['bits_per_image']:.1f} bits on validation images",
        ),
        ("Parameters", f"{facts['parameters']:,}"),
        (
            "Trained on",
            f"{facts['images']:,} images, {facts['steps']:,} steps, "
            f"{facts['seconds']:.0f} s, seed {facts['seed']}",
        ),
        ("Validation loss", "none" if loss is None else f"{loss:.5g} an image"),
        ("Scores", ", ".join(manifest.scores)),
    ]
    config = "\n".join(f"- {name}: {value}" for name, value in manifest.config.items())
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""# {manifest.plugin.name} autoencoder

| | |
|---|---|
{table}

## Configuration
{config}

## Use
The three ONNX graphs need nothing but an ONNX runtime: `encoder.onnx` turns uint8 images (N, H, W,
C) into integer codes, `decoder.onnx` turns codes into uint8 images, and `scorer.onnx` gives one raw
score an image for each name above, higher is stranger, and an error map. `golden.npz` holds a few
images with the answers to expect; runtimes differ by at most one grey level. In OpenVINO set
`INFERENCE_PRECISION_HINT` to `f32`.

## Limits
The model knows images like those it was trained on. What it has not seen it rebuilds badly: look at
the PSNR (`compressor compress --measure`) before you delete originals.
"""
