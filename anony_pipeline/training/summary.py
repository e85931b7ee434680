"""What a stage of training came to, on one page: curves, settings, figures. Aggregates alone, without a pixel."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from anony_pipeline.config.schema import Config
from anony_pipeline.evaluation.canaries import chance_spread
from anony_pipeline.evaluation.report import number
from anony_pipeline.storage import atomic
from anony_pipeline.training.journal import read_metrics

PAGE, CURVES = "summary.html", "curves.png"
MAX_PNG_BYTES = 140_000
"""A picture inside Dagster's metadata is text, a third longer, and at most 200 kB."""

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("distance to the pseudo-targets", ("l1", "perceptual")),
    ("identity hinge", ("id",)),
    ("adversary", ("adv", "discriminator", "r1")),
    ("detection", ("detection", "detector")),
    ("reading", ("reading", "read_suppress")),
    ("gradient norm of the generator", ("gradient_norm",)),
    ("val: kid", ("kid",)),
    ("val: similarity to the originals", ("arcface_mean_sim", "train_mean_sim")),
    ("val: plates read, detector's mAP", ("easyocr_plate_acc", "val_map")),
)
LOSSES = tuple(name for title, names in PANELS if not title.startswith("val") for name in names)
FIGURES = (
    "kid",
    "fid",
    "arcface_mean_sim",
    "train_mean_sim",
    "similarity_gap",
    "canary_auc",
    "easyocr_plate_acc",
    "val_map",
)
MAX_GAP = 0.05
"""A larger train-val gap of similarity is pointed out: the generator may give back faces that it learned from."""
MAX_POINTS = 600
"""Points of a curve: more than a panel has pixels would only be slow."""
COLORS = ("#11703c", "#b3561e", "#4a5a8a")

Row = dict[str, float]


@dataclass(frozen=True)
class Course:
    """A loss over a stage.

    Attributes:
        name: As in `metrics.csv`.
        steps: Steps that have it: some losses exist for one kind alone.
        begin: Its mean over the first tenth of them.
        end: Its mean over the last tenth.
    """

    name: str
    steps: int
    begin: float
    end: float


def write(folder: Path, config: Config, facts: dict[str, Any]) -> Path | None:
    """Write `curves.png` and `summary.html` beside `metrics.csv`.

    Args:
        folder: Where `metrics.csv` lies.
        config: What was trained with.
        facts: What a `TrainReport` knows, for the page's head.

    Returns:
        The curves' file; None if there is no step to draw.
    """
    rows = read_metrics(folder / "metrics.csv")
    if not rows:
        return None
    atomic.write_bytes(folder / CURVES, curves(rows))
    atomic.write_text(folder / PAGE, page(config, facts, rows))
    return folder / CURVES


def curves(rows: Sequence[Row]) -> bytes:
    """Draw every loss and figure over the steps: as measured, and its running mean over a twentieth of the steps.

    Args:
        rows: Of `metrics.csv`; values may be missing.

    Returns:
        A PNG of at most `MAX_PNG_BYTES`.
    """
    panels = [(title, [name for name in names if _points(rows, name)[0].size]) for title, names in PANELS]
    panels = [(title, names) for title, names in panels if names]
    lines = -(-len(panels) // 3)
    figure = Figure(figsize=(11, 2.5 * max(lines, 1)), layout="constrained")
    for place, (title, names) in enumerate(panels):
        axes = figure.add_subplot(lines, 3, place + 1)
        for name, color in zip(names, COLORS, strict=False):
            _draw(axes, *_points(rows, name), name, color)
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, color="#d9dce1", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if min(_points(rows, name)[1].min() for name in names) >= 0:
            # From zero on, or a change of a percent would fill the panel.
            axes.set_ylim(bottom=0)
        if place >= len(panels) - 3:
            axes.set_xlabel("step", fontsize=8)
    dpi = 110.0
    while len(data := _png(figure, dpi)) > MAX_PNG_BYTES:
        dpi *= 0.85
    return data


def page(config: Config, facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """Make the page: HTML without a script; it shows `curves.png` beside it, and nothing else from outside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number)
    courses = [course(rows, name) for name in LOSSES]
    return environment.get_template("summary.html.j2").render(
        name=config.name,
        facts=facts,
        settings=settings(config),
        courses=[found for found in courses if found is not None],
        figures=FIGURES,
        validated=[row for row in rows if any(name in row for name in FIGURES)],
        remarks=remarks(rows, facts | {"canaries": config.training.canaries}),
    )


def course(rows: Sequence[Row], name: str) -> Course | None:
    """How a loss began and ended; None if no step has it."""
    _, values = _points(rows, name)
    tenth = -(-len(values) // 10)
    if not tenth:
        return None
    return Course(name, len(values), float(values[:tenth].mean()), float(values[-tenth:].mean()))


def settings(config: Config) -> dict[str, str]:
    """What the result depends on, as few lines."""
    training, tuned, generator = config.training, config.model.finetune, config.model.generator
    weights = {name: value for name, value in config.loss.model_dump().items() if value}
    what = f"LoRA of rank {tuned.lora_rank}, alpha {tuned.lora_alpha:g}" if tuned.use_lora else "all weights"
    return {
        "base model": generator.diffusers.model_id.rstrip("/").rpartition("/")[2],
        "learns": f"{what} of {', '.join(tuned.learnable_layers)}",
        "crops": f"faces {generator.face_size} px, plates {generator.plate_height} x {3 * generator.plate_height} px",
        "batch": f"{training.batch_size} crops in {training.accumulation} parts, {config.precision}",
        "sampling steps": f"faces {config.face_steps}, plates {config.plate_steps} "
        f"from anchors noised to {config.plate_text_anchor_strength:g}",
        "learning rates": ", ".join(f"{name} {value:g}" for name, value in config.lr.model_dump().items()),
        "in a cycle": ", ".join(f"{name} {value}" for name, value in config.alternating.model_dump().items()),
        "losses": ", ".join(f"{name} {value:g}" for name, value in weights.items()),
        "seed": str(config.seed),
    }


def remarks(rows: Sequence[Row], facts: dict[str, Any]) -> list[str]:
    """What whoever trained this should look at."""
    found = []
    if not facts.get("finished", True):
        found.append("It was stopped before its last step: the same command goes on from here.")
    if facts.get("bad_steps"):
        found.append(f"{facts['bad_steps']} steps were skipped, because a loss or a gradient was not finite.")
    gaps = _points(rows, "similarity_gap")[1]
    if gaps.size and gaps[-1] > MAX_GAP:
        found.append(
            f"Training faces come out more like their originals than val faces do, by {gaps[-1]:.3f}: the generator "
            "may give back what it learned. Train shorter, or on more faces."
        )
    audits = _points(rows, "canary_auc")[1]
    if audits.size and audits[-1] > 0.5 + 2 * chance_spread(facts["canaries"]):
        found.append(
            f"The outputs tell which canaries were planted (AUC {audits[-1]:.2f}, a guess is 0.50 with a standard "
            f"deviation of {chance_spread(facts['canaries']):.2f}): the generator memorized faces."
        )
    distances = _points(rows, "kid")[1]
    if len(distances) > 1 and distances[-1] > 1.2 * distances.min():
        best = int(_points(rows, "kid")[0][distances.argmin()])
        found.append(f"The val kid was lower at step {best}: it may have been trained too long, or too fast.")
    return found


def _points(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, values


def _draw(axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, color: str) -> None:
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    first = np.maximum(np.arange(len(values)) + 1 - width, 0)
    means = (sums[1:] - sums[first]) / (np.arange(len(values)) + 1 - first)
    shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).astype(int))
    if width > 1:
        axes.plot(steps[shown], values[shown], color=color, alpha=0.25, linewidth=0.7)
    axes.plot(
        steps[shown], means[shown], color=color, linewidth=1.6, marker="o" if len(values) < 8 else None, label=name
    )


def _png(figure: Figure, dpi: float) -> bytes:
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    # A palette takes a third of the bytes, and shades of four colors need no more.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(48).save(file, "png", optimize=True)
    return file.getvalue()
