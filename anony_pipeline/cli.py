"""The command line ``anony``: parse, call one library function, print."""

import os
import shlex
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.console import Console

from anony_pipeline import __version__, train_joint
from anony_pipeline.errors import AnonyPipelineError, of_disk

if TYPE_CHECKING:
    from anony_pipeline.config.schema import Profile as ConfiguredProfile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Replace faces and license plates in street images by generated ones; measure what leaked and what was lost.",
)
# A log or a notebook has no width; eighty columns would cut the scorecard's figures.
out = Console(width=None if sys.stdout.isatty() else 150)
err = Console(stderr=True)

EXIT_USER_ERROR = 2

Configs = Annotated[
    list[str], typer.Option("--config", help="YAML layer; give it several times, later ones win.", show_default=False)
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one key: --set loss.adv_weight=0.05")]


def _writable(folder: Path) -> Path:
    from anony_pipeline.storage import locations

    locations.writable(folder)
    return folder


Output = Annotated[Path, typer.Option("--output", callback=_writable, help="Folder for the results.")]


class Profile(StrEnum):
    """What is done to regions."""

    REALISTIC = "realistic"
    BLUR = "blur"
    SOLID = "solid"


class Overlays(StrEnum):
    """What an overlay points at."""

    AUTO = "auto"
    UNIFIED = "unified"
    SOURCES = "sources"


def main() -> None:
    """Run the command line; an error that the user can mend is printed without a traceback, with exit code 2."""
    # Before anything imports a tokenizer or the hub: quiet, and nothing is sent.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of its own choice of engines
    try:
        app()
    except AnonyPipelineError as error:
        _fail(error)
    except OSError as error:
        if (refusal := of_disk(error)) is None:
            raise
        _fail(refusal)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _fail(error: AnonyPipelineError) -> NoReturn:
    err.print(f"[red]error:[/red] {type(error).__name__}")
    err.print(str(error), markup=False, highlight=False)
    sys.exit(EXIT_USER_ERROR)


def _version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `anony` itself."""


@app.command()
def doctor() -> None:
    """Say what is here, what is missing, and what to do about it."""
    from anony_pipeline import doctor as doctors
    from anony_pipeline import printing

    findings = doctors.examine()
    out.print(printing.findings(findings))
    if not all(finding.fine for finding in findings if finding.needed):
        raise typer.Exit(1)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", callback=_writable, help="Made if it is not there.")],
) -> None:
    """Copy the configurations, workspace.yaml and dagster.yaml into DIR, to run and edit them there."""
    from anony_pipeline import project

    written = project.copy_to(directory)
    for path in written:
        out.print(path, soft_wrap=True)
    there = f"cd {shlex.quote(str(directory))} && anony demo"
    out.print(f"{len(written)} files written; those that were there are as they were. Next: {there}", markup=False)


@app.command()
def demo() -> None:
    """Run the demo here: raw data to scorecard, on two CPU cores, in minutes."""
    from anony_pipeline import doctor as doctors
    from anony_pipeline import project

    doctors.check_dagster_home()
    if project.home() is None:
        project.copy_to(Path.cwd())
    command = ["-m", "dagster", "job", "execute", "-m", "anony_pipeline.definitions", "-j", "planb"]
    code = _run([*command, "-c", project.find("configs/runs/demo.yaml")])
    if code:
        raise typer.Exit(code)
    show_scorecard([project.find("configs/demo.yaml")], None)


@app.command("scorecard")
def show_scorecard(config: Configs, overrides: Overrides = None) -> None:
    """Print the scorecard of an experiment, and where its report lies."""
    from anony_pipeline import printing
    from anony_pipeline.config import loading
    from anony_pipeline.evaluation import schema

    folder = Path(loading.load(config, overrides or ()).paths.outputs)
    for part in printing.scorecard(schema.load(folder / "scorecard.json")):
        out.print(part)
    out.print(f"scorecard: {folder / 'scorecard.json'}", soft_wrap=True, markup=False)
    out.print(f"report:    {folder / 'report' / 'index.html'}", soft_wrap=True, markup=False)


@app.command()
def compare(
    scorecards: Annotated[list[Path], typer.Argument(metavar="SCORECARD...", help="Two or more scorecard.json.")],
) -> None:
    """Put scorecards side by side; refused if other judges or other data made them."""
    from anony_pipeline import printing
    from anony_pipeline.evaluation import comparison, schema

    if len(scorecards) < 2:
        raise typer.BadParameter("give two scorecards or more")
    cards = [schema.load(path) for path in scorecards]
    out.print(printing.comparison(cards, comparison.compare(cards, [str(path) for path in scorecards])))


@app.command()
def streetscape(
    output: Output,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    people: Annotated[int, typer.Option(min=1, help="Distinct people.")] = 60,
    scenes: Annotated[int, typer.Option(min=1, help="Images in all.")] = 140,
) -> None:
    """Write the procedural data set, in the layouts of WIDERFace and PP4AV."""
    from anony_pipeline import printing
    from anony_pipeline.config.schema import Streetscape
    from anony_pipeline.datasets.streetscape import writer

    settings = Streetscape(seed=seed, people=people, scenes=scenes)
    out.print(printing.report(writer.write(settings, output / "widerface", output / "pp4av"), str(output)))


@app.command()
def unify(
    output: Output,
    widerface: Annotated[str | None, typer.Option(help="WIDERFace's folder.")] = None,
    pp4av: Annotated[str | None, typer.Option(help="PP4AV's folder.")] = None,
    config: Annotated[
        list[Path] | None, typer.Option("--config", help="Or the sources of a configuration, as a run unifies them.")
    ] = None,
    overrides: Overrides = None,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="From the annotations alone: sizes left out, clipping not done.")
    ] = False,
) -> None:
    """Merge WIDERFace and PP4AV into one COCO file a split, with a report of everything that was bad."""
    from anony_pipeline import printing
    from anony_pipeline.config import loading
    from anony_pipeline.datasets import unify as unifying

    if bool(config) == (widerface is not None or pp4av is not None):
        raise typer.BadParameter("give --widerface DIR, --pp4av DIR or both, or --config FILE")
    data = loading.load(config, overrides or ()).data if config else unifying.data_of(widerface, pp4av)
    report = unifying.unify(data, output, without_images=without_images)
    out.print(printing.unified(report, str(output)))


@app.command()
def plan(config: Configs, overrides: Overrides = None) -> None:
    """Say what a training needs and whether it is here: data, weights, disk, GPU memory, steps. Refuses early."""
    from anony_pipeline import plan as plans
    from anony_pipeline import printing
    from anony_pipeline.config import loading

    findings = plans.examine(loading.load(config, overrides or ()))
    out.print(printing.findings(findings))
    if not all(finding.fine for finding in findings if finding.needed):
        raise typer.Exit(1)


app.command("train")(train_joint.main)


@app.command("cross-fit")
def cross_fit(
    config: Configs,
    output: Output,
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(min=2, help="Trainings; each leaves out a part of the images.")] = 3,
) -> None:
    """Train once a fold, and anonymize each training image by a model that never saw it."""
    from anony_pipeline import printing
    from anony_pipeline.config import loading
    from anony_pipeline.training import cross_fitting

    settings = loading.load(config, [*(overrides or ()), f"training.folds={folds}"])
    out.print(printing.report(cross_fitting.cross_fit(settings, output).anonymized, "cross-fitted"))


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Judge this: a folder checkpoints/step_XXXXXX.")
    ] = None,
    originals: Annotated[
        Path | None, typer.Option("--originals", help="Or anybody's images: the originals ...")
    ] = None,
    anonymized: Annotated[Path | None, typer.Option("--anonymized", help="... their anonymized versions ...")] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="... and a COCO file of the originals' faces and plates.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", help="YAML layer: judges, baselines, gates; may be repeated.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override one key: --set judges.second_detector=yunet.onnx")
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option("--style", help="Judge this plate style alone; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="For the two files; else paths.outputs, or outputs/evaluation.")
    ] = None,
) -> None:
    """Judge a checkpoint, or a folder of anonymized images: scorecard.json and report/index.html."""
    from anony_pipeline import printing

    command = shlex.join(["anony", *sys.argv[1:]])
    folders = (originals, anonymized, boxes)
    if checkpoint is not None and not any(folders):
        from anony_pipeline.anonymize.loading import open_checkpoint
        from anony_pipeline.config import loading
        from anony_pipeline.evaluation import scorecard

        settings = open_checkpoint(checkpoint).config
        if config or overrides:
            settings = loading.load([str(checkpoint / "config.yaml"), *(config or ())], overrides or ())
        folder = output or Path(settings.paths.outputs)
        card = scorecard.evaluate(settings, checkpoint, style, folder, command)
    elif checkpoint is None and originals and anonymized and boxes and not style:
        from anony_pipeline.evaluation import folders as judging

        settings = judging.configuration(config or (), overrides or ())
        folder = output or Path("outputs/evaluation") / anonymized.resolve().name
        card = judging.evaluate(settings, originals, anonymized, boxes, folder, command)
    else:
        raise typer.BadParameter(
            "give --checkpoint DIR [--style STYLE], or --originals DIR --anonymized DIR --boxes COCO.json"
        )
    for part in printing.scorecard(card):
        out.print(part)
    out.print(f"report: {folder / 'report' / 'index.html'}", soft_wrap=True, markup=False)


@app.command()
def anonymize(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, and folders of images.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="A folder checkpoints/step_XXXXXX.")],
    output: Output,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="COCO file with the regions; detected if not given.")
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option("--profile", help="What is done to regions; as the checkpoint says if not given.")
    ] = None,
    face_detector: Annotated[
        Path | None,
        typer.Option("--face-detector", help="YuNet's ONNX file: its faces too, beside the checkpoint's detector's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and do nothing.")] = False,
) -> None:
    """Anonymize images and folders. What cannot be generated or verified is filled with one color, and counted."""
    from anony_pipeline import printing
    from anony_pipeline.anonymize import folder

    chosen = None if profile is None else cast("ConfiguredProfile", profile.value)
    report = folder.anonymize_folder(
        inputs, checkpoint, output, boxes=boxes, profile=chosen, face_detector=face_detector, dry_run=dry_run
    )
    out.print(printing.folder(report))
    raise typer.Exit(report.exit_status)


@app.command("colab-paths")
def colab_paths(
    config: Annotated[list[str] | None, typer.Option("--config", help="The experiment.")] = None,
    mode: Annotated[
        Overlays, typer.Option(help="auto: the unified files if they are there, else the sources.")
    ] = Overlays.AUTO,
    drive: Annotated[Path, typer.Option(help="Where results go, and data may lie.")] = Path(
        "/content/drive/MyDrive/anony_pipeline"
    ),
    output: Annotated[Path, typer.Option("--output", help="The overlay.")] = Path("configs/paths_colab.yaml"),
) -> None:
    """Write the overlay with the paths of a Colab runtime, to be given as the last --config."""
    from anony_pipeline import colab, project
    from anony_pipeline.config import loading

    layers = config or [project.find("configs/planB_colab.yaml")]
    places = [Path.cwd() / "data", Path.cwd() / "data" / "raw", drive / "data", drive / "data" / "raw", drive]
    overlay = colab.write_overlay(loading.load(layers), mode.value, places, drive / "outputs", output)
    results = overlay.values["paths"]["outputs"]
    out.print(f"{overlay.file}: {overlay.data}; results go to {results}", soft_wrap=True, markup=False)
    command = ["anony", "train", *(part for layer in [*layers, str(output)] for part in ("--config", layer))]
    out.print(f"Next: {shlex.join(command)}", soft_wrap=True, markup=False)


@app.command()
def reap(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Reap these whatever their processes.")
    ] = None,
) -> None:
    """Free what Dagster runs hold whose process is gone (a killed notebook): their slot, and the sensor."""
    from anony_pipeline import doctor as doctors

    doctors.check_dagster_home()
    raise typer.Exit(_run(["-m", "anony_pipeline.defs.reap", *(run_ids or [])]))


@app.command()
def purge(
    roots: Annotated[
        list[Path] | None,
        # Of a mistyped folder "0 private folders removed" would be taken for the truth.
        typer.Argument(
            metavar="[DIR]...", exists=True, file_okay=False, help="Where to look: data and outputs, if not given."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is not past its time.")] = False,
) -> None:
    """Remove private artifacts (targets, caches, val_samples) that are past their time."""
    from anony_pipeline.storage import private

    removed = [
        path for root in roots or [Path("data"), Path("outputs")] for path in private.purge(root, everything=everything)
    ]
    for path in removed:
        out.print(path, soft_wrap=True)
    out.print(f"{len(removed)} private folders removed")


def _run(arguments: list[str]) -> int:
    """Run this Python with arguments, quietly and without telemetry."""
    quiet = {"PYTHONWARNINGS": "ignore::Warning", "DAGSTER_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **quiet}
    return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode  # noqa: S603 - our own
