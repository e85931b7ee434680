"""Judge a checkpoint: every method on the same val images, every judge who can see, one scorecard and one page."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from upath import UPath

from anony_pipeline.anonymize import loading
from anony_pipeline.anonymize.anonymizer import Anonymizer
from anony_pipeline.anonymize.loading import Checkpoint
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.config.loading import fingerprint
from anony_pipeline.config.schema import Config, Gates
from anony_pipeline.datasets import folds, loaders
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import AnonyPipelineError, DatasetError
from anony_pipeline.evaluation import attacks, baselines, canaries, comparison, inspection, licenses, report
from anony_pipeline.evaluation.canaries import Audit
from anony_pipeline.evaluation.evidence import Evidence, Trained
from anony_pipeline.evaluation.figures import TRAITS, FigureMaker
from anony_pipeline.evaluation.judges import PANELS, Judges, found_above, load_judges
from anony_pipeline.evaluation.methods import Method
from anony_pipeline.evaluation.observations import NOBODY
from anony_pipeline.evaluation.run import Picture, Run, audited, memorized
from anony_pipeline.evaluation.schema import (
    ANONYMIZER,
    OVERALL,
    REAL_HALVES,
    DataFacts,
    Figure,
    Gate,
    JudgeEntry,
    Panel,
    Row,
    Scorecard,
    Subject,
    load,
    null,
    rules,
)
from anony_pipeline.models import lora
from anony_pipeline.models.generator import Generator
from anony_pipeline.ops import images
from anony_pipeline.plates.styles import configured_styles
from anony_pipeline.runtime import device as devices
from anony_pipeline.runtime import seeding
from anony_pipeline.storage import atomic, locations, manifests
from anony_pipeline.structures.regions import Kind

NAME = "scorecard.json"
REPORT = Path("report") / "index.html"
EXAMPLES = Path("report") / "before_and_after.jpg"
HISTORY = "scorecards"
"""Where the scorecards of all judged checkpoints are kept, beside the newest one."""
MIN_PROBES = 500
"""Fewer probes can't show that re-identification is as rare as the gate asks."""
Learned = tuple[dict[Panel, Trained], Audit | str]
"""What recognizers saw of training faces, and of canaries or why of none."""


def evaluate(
    config: Config,
    checkpoint: Path | UPath,
    styles: Sequence[str] | None = None,
    output: Path | UPath | None = None,
    command: str | None = None,
) -> Scorecard:
    """Judge a checkpoint beside the baselines, and write ``scorecard.json`` and ``report/index.html``.

    Every judge looks at the originals first, and who can't see there is not asked about the methods. Every method is
    applied to each image once; what the judges see stays in memory. The headline is end to end: the checkpoint's own
    detector looks for the regions, and one that it misses counts as leaked.

    Args:
        config: What it is judged on, by whom, and against which gates.
        checkpoint: A folder ``checkpoints/step_XXXXXX``.
        styles: Only images of these plate styles are judged anew; their rows replace those of the scorecard that is
            there, and the overall ones stay, marked as of another run. None judges all.
        output: Where the two files go; ``paths.outputs`` if None.
        command: What makes the scorecard again; the command line's own if None.

    Raises:
        CheckpointError: If the checkpoint is incomplete.
        DatasetError: If there is no image to judge.
        WeightsError: If a judge is not there.
    """
    folder = UPath(output if output is not None else config.paths.outputs)
    locations.writable(folder)
    opened = loading.open_checkpoint(Path(str(checkpoint)), config)
    device = devices.choose_device(config.device)
    judges = load_judges(config, opened, device)
    val = limited(loaders.open_split(config, "val"), config.evaluation.max_images)
    methods, on_training = _methods(config, opened, judges, device)
    run = Run(config, val, judges, methods, styles)
    run.look()
    evidence = run.evidence(*(on_training() if styles is None else ({}, "only some styles were judged")))
    subject = Subject(checkpoint=opened.folder.name, step=opened.step, sha256=opened.sha256)
    again = command or shlex.join(
        ["anony", "evaluate", "--checkpoint", str(checkpoint)]
        + [part for style in styles or () for part in ("--style", style)]
    )
    card = summarize(config, subject, run, evidence, again, styles)
    if styles is not None:
        card = merged(load(folder / NAME) if (folder / NAME).exists() else None, card)
    save(card, folder, run.pictures)
    return card


def save(card: Scorecard, folder: UPath | Path, pictures: Sequence[Picture] = ()) -> None:
    """Write the scorecard, its page, and a sheet of the pictures if there are some."""
    atomic.write_json(folder / NAME, card.model_dump(mode="json", exclude_none=False))
    shown = [(picture.name, picture.before_rgb, picture.after_rgb) for picture in pictures]
    atomic.write_text(folder / REPORT, report.render(card, shown, history_of(card, folder)))
    if shown:
        images.write(folder / EXAMPLES, report.before_and_after(shown))


def history_of(card: Scorecard, folder: UPath | Path) -> list[Scorecard]:
    """The scorecards of earlier checkpoints that the same judges made on the same data, with this one, by step."""
    found = {card.subject.step: card}
    if card.subject.kind == "checkpoint" and card.overall_of_this_run and (folder / HISTORY).is_dir():
        for name in sorted(path.name for path in (folder / HISTORY).iterdir() if path.suffix == ".json"):
            try:
                other = load(folder / HISTORY / name)
            except AnonyPipelineError:  # damaged, or of a later format
                continue
            if other.overall_of_this_run and not comparison.reasons_against(card, other):
                found.setdefault(other.subject.step, other)
    return [found[step] for step in sorted(found)]


def merged(old: Scorecard | None, new: Scorecard) -> Scorecard:
    """Put the rows of a run over some styles into the scorecard of an earlier run.

    Args:
        old: The earlier one; it is not used if another checkpoint, other data or other judges made it.
        new: With rows of some styles alone.
    """
    fits = old is not None and (old.subject, old.data, _cards(old)) == (new.subject, new.data, _cards(new))
    names = {f"style:{style}" for style in new.styles_of_this_run or ()}
    kept = tuple(row for row in old.rows if row.slice not in names) if old is not None and fits else ()
    whole = old if old is not None and fits else new
    rows = kept + tuple(row for row in new.rows if row.slice in names)
    if not kept:
        rows += tuple(row for row in new.rows if row.slice == OVERALL)
    # A gate that the earlier run did not know yet is not held by it.
    unknown = tuple(gate for gate in new.gates if gate.name not in {known.name for known in whole.gates})
    kept_facts = {"gates": whole.gates + unknown, "inspection": whole.inspection}
    return new.model_copy(update={"rows": rows, **kept_facts, "overall_of_this_run": False})


def _cards(card: Scorecard) -> dict[str, str]:
    return {key: judge.sha256 for key, judge in card.judges.items()}


def rows_of(evidence: Evidence, maker: FigureMaker, styles: Sequence[str] | None = None) -> tuple[Row, ...]:
    """Every row: each method on each slice by each panel.

    Args:
        evidence: What was seen.
        maker: Makes the figures.
        styles: Only the slices of these styles; None makes all.
    """
    rows = []
    slices = evidence.slices()
    if styles is not None:
        slices = {name: mask for name, mask in slices.items() if name.removeprefix("style:") in styles}
    for slice_name, mask in slices.items():
        for key, method in evidence.methods.items():
            for panel in PANELS:
                if panel != "held_out" and slice_name.startswith(("size:", "kind:", *TRAITS)):
                    continue
                made = maker.figures(key, panel, slice_name, mask)
                if made:
                    rows.append(
                        Row(method=method.name, boxes=method.boxes, panel=panel, slice=slice_name, figures=made)
                    )
        if slice_name.startswith(TRAITS):
            continue
        halves = maker.real_halves(slice_name, mask)
        rows.append(Row(method=REAL_HALVES, boxes="none", panel="held_out", slice=slice_name, figures=halves))
    return tuple(rows)


def gates_of(row: Row | None, gates: Gates, kind: Literal["checkpoint", "folder"] = "checkpoint") -> tuple[Gate, ...]:
    """Hold the headline against the release's bounds; a figure that is null fails.

    Args:
        row: The anonymizer's overall row on detected boxes, by the held-out judges.
        gates: The bounds.
        kind: What was judged.
    """
    asked = rules(gates) if kind == "checkpoint" else rules(gates)[:-1]  # nobody knows what a folder was trained on
    return tuple(_gate(row, name, rule, bound) for name, rule, bound in asked)


def _gate(row: Row | None, name: str, rule: str, bound: float) -> Gate:
    missing = null(name, "there is no such figure")
    figure = row.figures.get(name, missing) if row is not None else missing
    value = figure.value
    if value is not None and rule.startswith("upper bound"):
        value = figure.interval[1] if figure.interval is not None else None
    reason = figure.reason
    if value is None:
        passed = False
        reason = reason or "there is no interval"
    else:
        passed = value >= bound if rule == "at least" else value <= bound
        found = f"the 95 % interval ends at {value:.4f}," if rule.startswith("upper bound") else f"{value:.4f} is"
        reason = None if passed else f"{found} {'below' if rule == 'at least' else 'above'} {bound:g} (n = {figure.n})"
    if passed and name == "reid_excess" and (figure.n or 0) < MIN_PROBES:
        passed, reason = False, f"within the bound, but by only {figure.n} probes; the gate needs {MIN_PROBES}"
    return Gate(name=name, metric=name, passed=passed, value=value, bound=bound, rule=rule, reason=reason)


def _methods(
    config: Config, checkpoint: Checkpoint, judges: Judges, device: torch.device
) -> tuple[dict[str, Method], Callable[[], Learned]]:
    """The methods by key, and what measures memorization when it is called."""
    generator = loading.load_adapted(checkpoint, device)
    # The anonymizer's detector is the training panel's: what it found as a judge of the originals is not looked for
    # again.
    detect = partial(found_above, judges.detectors["training"])
    verifier = Verifier(judges.recognizers.get("training"), judges.readers.get("training"), Policy().max_similarity)
    # Figures must be the same when they are made again, so serials follow from the seed here; in use they do not.
    secret = seeding.seed_for(config.seed, "evaluation serials").to_bytes(8, "big") * 4
    anonymizer = loading.assemble(config, generator, detect, verifier, secret=secret)
    methods: dict[str, Method] = {
        f"{ANONYMIZER}/detected": baselines.Generated(anonymizer, "detected"),
        f"{ANONYMIZER}/ground_truth": baselines.Generated(anonymizer, "ground_truth"),
    }
    names = config.evaluation.baselines
    train = folds.trained_on(config, loaders.open_split(config, "train"))
    donors = baselines.Donors.read(config, train) if {"other_face", "fit"} & set(names) else None
    for name in names:
        methods[name] = _baseline(name, anonymizer, generator, donors)

    return methods, partial(_of_training, config, checkpoint, generator, judges, train)


def _of_training(
    config: Config, checkpoint: Checkpoint, generator: Generator, judges: Judges, train: CocoSet
) -> Learned:
    """What recognizers see of training faces, and of the checkpoint's canaries or why of none."""
    unverified = loading.assemble(config, generator, None, canaries.LetThrough(), secret=bytes(32))
    adapted = baselines.Generated(unverified, "ground_truth")
    most, val = config.evaluation.memorization_images, loaders.open_split(config, "val")
    learned = memorized(train, val, adapted, judges, most=most, seed=config.seed)
    drawn = canaries.read(checkpoint.folder)
    reason = canaries.reason_against(drawn, checkpoint.config.training.canaries, train)
    if reason is not None:
        return learned, reason
    base = replace(adapted, name="base", within=partial(lora.without_adapters, generator))
    return learned, audited(train, drawn, {ANONYMIZER: adapted, "base": base}, judges)


def _baseline(name: str, anonymizer: Anonymizer, generator: Generator, donors: baselines.Donors | None) -> Method:
    if name == "none":
        return baselines.none()
    if name == "base":
        within = partial(lora.without_adapters, generator)
        return baselines.Generated(anonymizer, "ground_truth", "base", within)
    if name in baselines.REDACTIONS:
        return baselines.redaction(name)
    if donors is None:
        raise ValueError(f"{name} needs donors")
    return baselines.other_face(donors) if name == "other_face" else baselines.fit(donors, configured_styles())


def summarize(
    config: Config,
    subject: Subject,
    run: Run,
    evidence: Evidence,
    command: str,
    styles: Sequence[str] | None = None,
) -> Scorecard:
    """Turn what was seen into a scorecard.

    Args:
        config: Its name, data and gates.
        subject: What was judged.
        run: The finished pass.
        evidence: What it saw.
        command: What makes the scorecard again.
        styles: See `evaluate`.
    """
    maker = FigureMaker(evidence)
    rows = rows_of(evidence, maker, styles)
    if styles is not None:
        rows += (_overall_of_another_run(),)
    headline = next(
        (r for r in rows if (r.method, r.boxes, r.slice, r.panel) == (ANONYMIZER, "detected", OVERALL, "held_out")),
        None,
    )
    detected = run.observed[f"{ANONYMIZER}/detected"]
    return Scorecard(
        name=config.name,
        subject=subject,
        data=_facts(config, run),
        judges=judge_entries(run.judges, maker),
        rows=rows,
        gates=gates_of(headline, config.evaluation.gates, subject.kind),
        treated=dict(sorted(detected.done.items())),
        styles_of_this_run=None if styles is None else tuple(styles),
        overall_of_this_run=styles is None,
        attackers=attacks.facts(config),
        profile=config.profile if subject.kind == "checkpoint" else None,
        licences=(licenses.of_checkpoint if subject.kind == "checkpoint" else licenses.of_judges)(config),
        inspection=inspection.requirements(
            evidence, f"{ANONYMIZER}/detected", config.profile if subject.kind == "checkpoint" else None
        ),
        command=command,
    )


def _overall_of_another_run() -> Row:
    reason = "not of this run: only some styles were judged"
    names = ("reid_rank1", *(name for name, _, _ in rules(Gates())))
    figures: dict[str, Figure] = {name: null(name, reason) for name in names}
    return Row(method=ANONYMIZER, boxes="detected", panel="held_out", slice=OVERALL, figures=figures)


def judge_entries(judges: Judges, maker: FigureMaker) -> dict[str, JudgeEntry]:
    """The judges with their proofs."""
    entries = {}
    for key, (card, panel) in judges.cards().items():
        proof = maker.proofs.get((card.kind, panel))
        entries[key] = JudgeEntry(
            kind=card.kind,
            name=card.name,
            library=card.library,
            weights=card.weights,
            sha256=card.sha256,
            panel=panel,
            proof=proof.value if proof else None,
            floor=proof.floor if proof else None,
            blind=proof.reason if proof else None,
        )
    return entries


def _facts(config: Config, run: Run) -> DataFacts:
    kinds = [kind.value for kind in run.subjects.kinds]
    faces = np.array(kinds, dtype=object) == Kind.FACE.value
    persons = np.array(run.subjects.persons)
    numbers = {image["id"] for image in run.val.images}
    crowds = sum(1 for a in run.val.annotations if a.get("iscrowd") and a["image_id"] in numbers)
    sources = {image.get("source") for image in run.val.images}
    procedural = {source.name for source in config.data.sources if source.ground_truth is not None}
    return DataFacts(
        fingerprint=fingerprint(manifests.sha256_of(run.val.path), config.evaluation.max_images),
        images=len(run.val.images),
        faces=int(faces.sum()),
        plates=int((~faces).sum()),
        identities=len(set(persons[faces & (persons != NOBODY)].tolist())),
        serials=sum(1 for serial in run.subjects.serials if serial),
        left_out_crowd=crowds,
        procedural=sources <= procedural,
    )


def limited(val: CocoSet, most: int) -> CocoSet:
    """At most so many images, spread over the set; 0 is all.

    Raises:
        DatasetError: If there is none.
    """
    if not val.images:
        raise DatasetError("there is no val image to judge", where=val.path, do="add images, or change data.splits")
    if not most or len(val.images) <= most:
        return val
    # Spread over the set: the first ones would all be of one source.
    chosen = np.linspace(0, len(val.images) - 1, most).round().astype(int)
    return folds.only(val, {val.images[number]["id"] for number in chosen})
