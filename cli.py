"""The command line: every verb, one short function each; heavy imports happen inside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from compressor import __version__

FAILED, USAGE, ANOMALIES, SOME_UNREADABLE = 1, 2, 3, 4
INTERRUPTED = (
    "interrupted; nothing was left under the output's name; train, compress and score go on with "
    "--resume"
)
Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
force = click.option("--force", is_flag=True, help="Replace an output that exists.")
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cpu, cuda, tensorrt, directml, coreml, migraphx or openvino; a named one is used "
    "or the job fails.",
)
model_option = click.option("-m", "--model", required=True, metavar="MODEL", help="A model.")


rows_option = click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="F.png: a picture. Or the images (a folder, .npy or .parquet), or vectors (also .csv).",
)


def output_option(help_text: str) -> Callable[[Command], Command]:
    return click.option("-o", "--output", required=True, metavar="PATH", help=help_text)


class Decibels(click.ParamType):  # type: ignore[type-arg]  # generic for mypy alone
    """35 or 35dB."""

    name = "dB"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return float(str(value).lower().removesuffix("db"))
        except ValueError:
            self.fail(f"{str(value)!r} is not a number of decibels; write 35dB", param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]  # the same
    """Seconds, from 90, 90s, 5m or 1.5h."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        units = {"s": 1, "m": 60, "h": 3600}
        text = str(value)
        try:
            seconds = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
        except ValueError:
            self.fail(f"{text!r} is not a duration; write 90s, 5m or 1.5h", param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"{text!r} is not a duration above zero", param, ctx)
        return seconds


class Verb(click.Command):
    """A command whose errors name settings as they are typed."""

    def invoke(self, ctx: click.Context) -> Any:
        from compressor.errors import CompressorError

        try:
            return super().invoke(ctx)
        except CompressorError as error:
            raise type(error)(as_typed(str(error), self)) from error


class Verbs(click.Group):
    """The verbs."""

    command_class = Verb


def as_typed(message: str, command: click.Command) -> str:
    """A message of the library with the command's options in place of the library's settings.

    ``fpr=0.01`` becomes ``--fpr 0.01``, ``force=True`` becomes ``--force``, and what no option is
    called, as ``crop=64``, becomes ``--set crop=64`` where the command has that.
    """
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}

    def typed(setting: re.Match[str]) -> str:
        name, value = setting.groups()
        option = options.get(name)
        if option is None:
            return f"--set {name}={value}" if "values" in options else setting[0]
        flag = max(option.opts, key=len)
        return flag if option.is_flag else f"{flag} {value}"

    return re.sub(r"(?<![^\s(])([a-z_]+)=(\S*[^\s:;,.)])", typed, message)


@click.group(
    cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="compressor")
def cli() -> None:
    """Learn a code for your data with an autoencoder; compress datasets, score anomalies.

    DATA are images: a folder, an image, .npy, .npz (FILE.npz::KEY), Parquet
    (FILE.parquet::COLUMN), a WebDataset .tar or a .zip. Or vectors: .npy, .npz, Parquet, or CSV
    (.csv, .tsv or .txt; FILE.csv::COLUMN,COLUMN).
    """


@cli.command()
@as_json
@click.option("--check", is_flag=True, help="Fail if any plugin cannot be used.")
def plugins(as_json: bool, check: bool) -> None:
    """List the installed plugins and their settings."""
    from compressor import verbs

    found = verbs.plugins()
    if as_json:
        click.echo(json.dumps(found))
    else:
        for plugin in found:
            click.echo(f"{plugin['name']}  ({plugin['distribution']} {plugin['version']})")
            click.echo(f"  {plugin['summary'] or plugin['status']}")
            for field in plugin["config"]:
                click.echo(
                    f"    {field['name']}={json.dumps(field['default'])}  {field['description']}"
                )
    if check and any(plugin["status"] != "ok" for plugin in found):
        sys.exit(FAILED)


@cli.command()
@click.argument("plugin")
@click.argument("data")
@output_option("The model: a folder, or a file *.zip.")
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the plugin or of the training; VALUE is YAML. Repeatable.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="F.yaml",
    help="Settings from a YAML file; --set goes before it.",
)
@click.option("--start", metavar="MODEL", help="Begin with the weights of a model of PLUGIN.")
@click.option("--max-time", "max_seconds", type=Duration(), help="Stop after this time, say 5m.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after so many steps.")
@click.option("--quality", type=Decibels(), help="Find the rate at which PSNR is this, say 35dB.")
@click.option(
    "--bits",
    type=click.FloatRange(0, min_open=True),
    help="Find the rate at which a pixel (of vectors, a number) takes so many bits, say 0.5.",
)
@click.option(
    "--channels",
    type=click.Choice(["auto", "grey", "rgb"]),
    help="Convert images to grey or RGB, dropping opaque alpha [default: auto, as they are].",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with a training that was stopped.")
@force
@as_json
def train(
    plugin: str,
    data: str,
    output: str,
    values: tuple[str, ...],
    config: str | None,
    start: str | None,
    max_seconds: float | None,
    max_steps: int | None,
    quality: float | None,
    bits: float | None,
    channels: str | None,
    seed: int,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Train PLUGIN on DATA and write a model.

    With --quality, --bits or --set rate=LAMBDA the codes are trained to be small; without, they
    are rounded afterwards.
    """
    from compressor import verbs

    options = {"quality": quality, "bits": bits, "channels": channels}
    given = {name: value for name, value in options.items() if value is not None}
    summary = verbs.train(
        plugin,
        data,
        output,
        start=start,
        settings=_settings(values, config) | given,
        max_seconds=max_seconds,
        max_steps=max_steps,
        seed=seed,
        resume=resume,
        force=force,
        progress=True,
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("model")
@output_option("A new folder.")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    metavar="float32|float16",
    help="How weights are stored; arithmetic is float32 in both.",
)
@force
@as_json
def export(model: str, output: str, precision: str, force: bool, as_json: bool) -> None:
    """Write the ONNX graphs of MODEL alone."""
    from compressor import verbs

    _finish(verbs.export(model, output, precision=precision, force=force), as_json)


@cli.command()
@click.argument("data")
@model_option
@output_option("CODES.npy or CODES.parquet.")
@device
@force
@as_json
def encode(data: str, model: str, output: str, device: str, force: bool, as_json: bool) -> None:
    """Write the latent codes of DATA."""
    from compressor import verbs

    _finish(verbs.encode(data, model, output, device=device, force=force, progress=True), as_json)


@cli.command()
@click.argument("data")
@model_option
@output_option("The archive: a new folder.")
@click.option("--no-embed", is_flag=True, help="Leave the model out; decompress with -m MODEL.")
@device
@click.option(
    "--min-psnr",
    type=float,
    metavar="DB",
    help="Of images: store by --fallback what the model rebuilds with a lower PSNR.",
)
@click.option(
    "--fallback",
    metavar="NAME",
    help="webp-lossless, webp, jpegxl-lossless or jpegxl, which need [jpegxl] "
    "[default: webp-lossless].",
)
@click.option(
    "--measure", is_flag=True, help="Decode too, and report PSNR and SSIM; of vectors mse and snr."
)
@click.option(
    "--measurements",
    metavar="FILE",
    help="Of images: measure, and write each one's PSNR and SSIM to FILE.parquet or FILE.csv.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Of images: say what JPEG, WebP, AVIF and others need for the same PSNR.",
)
@click.option("--resume", is_flag=True, help="Go on with a job that was stopped.")
@force
@as_json
def compress(
    data: str,
    model: str,
    output: str,
    device: str,
    min_psnr: float | None,
    fallback: str | None,
    measure: bool,
    measurements: str | None,
    compare: bool,
    no_embed: bool,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compress DATA with MODEL into an archive."""
    from compressor import verbs

    summary = verbs.compress(
        data,
        model,
        output,
        device=device,
        min_psnr=min_psnr,
        fallback=fallback,
        measure=measure,
        measurements=measurements,
        compare=compare,
        embed=not no_embed,
        resume=resume,
        force=force,
        progress=True,
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("archive")
@output_option("A folder of PNG files, OUT.npy or OUT.parquet; of vectors also OUT.csv.")
@click.option("--only", metavar="GLOB", help="Only those whose name matches.")
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="Use this copy of the model where the archive's own is damaged.",
)
@device
@force
@as_json
def decompress(
    archive: str,
    output: str,
    only: str | None,
    model: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn ARCHIVE back into images or vectors."""
    from compressor import verbs

    summary = verbs.decompress(
        archive, output, only=only, model=model, device=device, force=force, progress=True
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("data")
@model_option
@output_option("RESULTS.parquet, RESULTS.csv, or a folder RESULTS/ of Parquet parts.")
@click.option(
    "--scorer",
    multiple=True,
    metavar="NAME",
    help="Which score, by default the model's, mostly l2; auto; ensemble, or a+b for the rank "
    "average of a and b. With several (a,b or repeated) the first decides, the others have "
    "columns.",
)
@click.option("--fpr", type=float, help="False alarms among normal data [default: 0.01].")
@click.option(
    "--confidence",
    type=float,
    metavar="C",
    help="Keep --fpr with probability C over calibrations, say 0.95; else it is an average.",
)
@click.option("--fdr", type=float, help="False alarms among alarms, over the batch.")
@click.option("--threshold", type=float, help="The raw score above which anomalies are.")
@click.option("--heatmaps", metavar="DIR", help="Of images: write anomalies' error maps as PNG.")
@click.option("--report", metavar="F.html", help="Write a page with the strangest of DATA.")
@click.option("--metrics", metavar="F.prom", help="Write the job's figures for Prometheus.")
@click.option(
    "--csv-safe",
    is_flag=True,
    help="In RESULTS.csv, put a quote before names that spreadsheets would take for formulas.",
)
@click.option("--fail-on-anomaly", is_flag=True, help="End with exit code 3 if there are any.")
@device
@click.option("--resume", is_flag=True, help="Go on with a job that was stopped.")
@force
@as_json
def score(
    data: str,
    model: str,
    output: str,
    scorer: tuple[str, ...],
    fpr: float | None,
    confidence: float | None,
    fdr: float | None,
    threshold: float | None,
    heatmaps: str | None,
    report: str | None,
    metrics: str | None,
    csv_safe: bool,
    fail_on_anomaly: bool,
    device: str,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Score DATA for anomalies."""
    from compressor import verbs

    summary = verbs.score(
        data,
        model,
        output,
        scorer=scorer,
        fpr=fpr,
        confidence=confidence,
        fdr=fdr,
        threshold=threshold,
        heatmaps=heatmaps,
        report=report,
        metrics=metrics,
        csv_safe=csv_safe,
        device=device,
        resume=resume,
        force=force,
        progress=True,
    )
    _finish(summary, as_json, ANOMALIES if fail_on_anomaly and summary["anomalies"] else 0)


@cli.command()
@click.argument("data")
@model_option
@output_option("The index, a folder.")
@click.option("--add", is_flag=True, help="Add to an index that is there, of the same model.")
@device
@force
@as_json
def index(
    data: str, model: str, output: str, add: bool, device: str, force: bool, as_json: bool
) -> None:
    """Make an index of DATA, or of an archive's codes, to search in."""
    from compressor import verbs

    summary = verbs.index(data, model, output, add=add, device=device, force=force, progress=True)
    _finish(summary, as_json)


@cli.command()
@click.argument("index")
@click.argument("query")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("-m", "--model", metavar="MODEL", help="In place of the encoder in the index.")
@click.option("-o", "--output", metavar="FOUND", help="Write all that is found: .parquet or .csv.")
@device
@force
@as_json
def search(
    index: str,
    query: str,
    k: int,
    model: str | None,
    output: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Find the nearest of INDEX to QUERY: an image, other data, or ::N, the row N of INDEX."""
    from compressor import verbs

    summary = verbs.search(
        index, query, k=k, model=model, output=output, device=device, force=force
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("index")
@click.option("--threshold", type=click.FloatRange(min=0), help="How far apart they may be.")
@click.option("-o", "--output", metavar="GROUPS", help="Write all groups: .parquet or .csv.")
@force
@as_json
def duplicates(
    index: str, threshold: float | None, output: str | None, force: bool, as_json: bool
) -> None:
    """Group what is nearly the same in INDEX."""
    from compressor import verbs

    _finish(verbs.duplicates(index, threshold=threshold, output=output, force=force), as_json)


@cli.command()
@click.argument("model")
@click.option(
    "-n", "n", type=click.IntRange(min=1), default=64, show_default=True, help="How many."
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="A folder of PNG files, OUT.npy or OUT.parquet; of vectors OUT.npy, .csv or .parquet.",
)
@click.option("--sheet", metavar="F.png", help="Draw the first ones side by side.")
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Multiplies the deviations: below 1 samples are more usual and more alike.",
)
@device
@force
@as_json
def sample(
    model: str,
    n: int,
    output: str | None,
    sheet: str | None,
    seed: int,
    temperature: float,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make new images or vectors with MODEL."""
    from compressor import verbs

    summary = verbs.sample(
        model,
        n=n,
        output=output,
        sheet=sheet,
        seed=seed,
        temperature=temperature,
        device=device,
        force=force,
        progress=True,
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("model")
@click.argument("a")
@click.argument("b")
@click.option(
    "--steps", type=click.IntRange(min=2), default=9, show_default=True, help="A and B among them."
)
@rows_option
@device
@force
@as_json
def interpolate(
    model: str,
    a: str,
    b: str,
    steps: int,
    output: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Decode what lies between the codes of A and B: images, vectors, or means of several."""
    from compressor import verbs

    summary = verbs.interpolate(model, a, b, steps=steps, output=output, device=device, force=force)
    _finish(summary, as_json)


@cli.command()
@click.argument("model")
@click.argument("expression")
@output_option("F.png, or the images or vectors as for sample.")
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@device
@force
@as_json
def arithmetic(
    model: str,
    expression: str,
    output: str,
    seed: int,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Decode a sum of codes, as "smiling - neutral + man": images, folders or globs, averaged."""
    from compressor import verbs

    summary = verbs.arithmetic(
        model, expression, output=output, seed=seed, device=device, force=force
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("model")
@click.argument("image", required=False)
@rows_option
@click.option("--data", metavar="DATA", help="Say which latents go with what is measured of DATA.")
@click.option(
    "--attributes",
    metavar="FILE",
    help="Your own attributes of DATA: a .csv or .parquet with path and columns of numbers.",
)
@device
@force
@as_json
def traverse(
    model: str,
    image: str | None,
    output: str | None,
    data: str | None,
    attributes: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Move each latent of MODEL from -3 to 3 deviations, others as in IMAGE or at their mean."""
    from compressor import verbs

    summary = verbs.traverse(
        model,
        image,
        data=data,
        attributes=attributes,
        output=output,
        device=device,
        force=force,
        progress=True,
    )
    _finish(summary, as_json)


@cli.command()
@click.argument("model")
@click.argument("data")
@device
@as_json
def calibrate(model: str, data: str, device: str, as_json: bool) -> None:
    """Set MODEL's thresholds anew, from normal data it was not trained on."""
    from compressor import verbs

    _finish(verbs.calibrate(model, data, device=device, progress=True), as_json)


@cli.command()
@click.argument("model")
@click.argument("data")
@output_option("The page, PAGE.html.")
@device
@force
@as_json
def report(model: str, data: str, output: str, device: str, force: bool, as_json: bool) -> None:
    """Show what MODEL has learned, with inputs from DATA, as one HTML page."""
    from compressor import verbs

    _finish(verbs.report(model, data, output, device=device, force=force), as_json)


@cli.command()
@click.argument("path")
@as_json
def inspect(path: str, as_json: bool) -> None:
    """Say what a model, an archive or a results file holds."""
    from compressor import verbs

    _finish(verbs.inspect(path), as_json)


@cli.command()
@click.argument("path")
@click.option("-m", "--model", metavar="MODEL", help="The model of an archive made without it.")
@as_json
def verify(path: str, model: str | None, as_json: bool) -> None:
    """Check every hash and checksum of a model or an archive, and decode every block."""
    from compressor import verbs

    summary = verbs.verify(path, model)
    _finish(summary, as_json, 0 if summary["ok"] else FAILED)


def _settings(values: tuple[str, ...], config: str | None) -> dict[str, Any]:
    """Settings from --config and, before them, --set."""
    from compressor.errors import ConfigError, MissingDependency, install

    try:
        import yaml
    except ImportError as error:
        raise MissingDependency(
            f"training needs compressor[train]: run {install('train')}"
        ) from error

    settings: dict[str, Any] = {}
    try:
        if config:
            settings = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
            if not isinstance(settings, dict):
                raise ConfigError(f"{config} is not a YAML mapping of settings")
        for value in values:
            key, equals, text = value.partition("=")
            if not equals:
                raise click.UsageError(f"--set {value}: write KEY=VALUE")
            settings[key] = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from error
    return settings


def _finish(summary: dict[str, Any], as_json: bool, code: int = 0) -> None:
    """Prints a summary and ends with its exit code."""
    from compressor.data.left_out import images_among, listed
    from compressor.log import printable
    from compressor.summaries import lines

    if as_json:
        click.echo(json.dumps(summary))
    else:
        counts = {key: summary.get(key) for key in ("left_out", "not_kept")}
        counted = {key: listed(count) for key, count in counts.items() if isinstance(count, dict)}
        shown = {key: value for key, value in summary.items() if key != "warnings"} | counted
        for line in lines(shown):
            click.echo(printable(line))
    for warning in summary.get("warnings", ()):  # last, where they are read
        click.secho(f"Warning: {warning}", file=sys.stderr, fg="yellow", bold=True)
    _flush()
    incomplete = "kind" not in summary and (
        summary.get("unreadable")
        or summary.get("damage")
        or images_among(summary.get("left_out", {}))
    )
    sys.exit(code or (SOME_UNREADABLE if incomplete else 0))


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    import logging

    class AsTyped(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            message, context = record.getMessage(), click.get_current_context(silent=True)
            return as_typed(message, context.command) if context else message

    logger = logging.getLogger("compressor")
    handler = logging.StreamHandler()
    handler.setFormatter(AsTyped())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _flush() -> None:
    """Writes what was said to stdout now, where an error has an exit code."""
    if sys.stdout is not None:
        sys.stdout.flush()


def main() -> None:
    """Runs the command line; turns every error into one line and an exit code."""
    from compressor.interrupts import interruptible

    with interruptible():  # a polite kill and a lost terminal clean up like Ctrl-C does
        _run()


def _run() -> None:
    from compressor import streams
    from compressor.errors import CompressorError, ConfigError
    from compressor.interrupts import caught

    streams.mend()
    try:
        with _messages_on_stderr():
            cli.main(standalone_mode=False)
            _flush()
    except streams.AnswerLost as error:
        _fail(f"cannot write to stdout: {error}; what the command made stands", FAILED)
    except click.ClickException as error:
        error.show(file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail(INTERRUPTED, FAILED)
    except CompressorError as error:
        _fail(str(error), USAGE if isinstance(error, ConfigError) else FAILED)
    except BrokenPipeError:
        sys.exit(FAILED)
    except MemoryError:
        _fail("out of memory", FAILED)
    except Exception as error:
        if caught():  # a library has made another error of the interruption
            _fail(INTERRUPTED, FAILED)
        if os.environ.get("COMPRESSOR_DEBUG"):
            raise
        text = " ".join(str(error).split())
        _fail(
            f"unexpected {type(error).__name__}: {text}; this is a fault in compressor: please "
            "report it with the output of the same command under COMPRESSOR_DEBUG=1",
            FAILED,
        )


def _fail(message: str, code: int) -> None:
    from compressor.log import printable

    click.echo(f"Error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
