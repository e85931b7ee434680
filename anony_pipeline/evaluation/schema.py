"""The scorecard's schema, format ``anony_pipeline.scorecard/2``: who was judged, on what, by whom, with what result.

A scorecard of format 1 is read as one of format 2 that does not know its profile, its licenses and the inspection.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from upath import UPath

from anony_pipeline.config.schema import Gates, Profile
from anony_pipeline.errors import AnonyPipelineError

FORMAT: Literal["anony_pipeline.scorecard/2"] = "anony_pipeline.scorecard/2"
READABLE = ("anony_pipeline.scorecard/1", FORMAT)
ANONYMIZER = "anonymizer"
REAL_HALVES = "real_halves"
OVERALL = "overall"

Better = Literal["higher", "lower"]
Panel = Literal["held_out", "second", "training"]
BoxSource = Literal["detected", "ground_truth", "none"]


class Metric(NamedTuple):
    """What a figure is called, which way is better, and what it means in one sentence."""

    better: Better
    title: str
    meaning: str


METRICS: dict[str, Metric] = {
    "arcface_mean_sim": Metric("lower", "similarity", "mean cosine of each original and its anonymized face"),
    "reid_rank1": Metric("lower", "rank-1", "anonymized face names its person among originals of other photographs"),
    "reid_rank5": Metric("lower", "rank-5", "the person is among the five nearest"),
    "reid_rank1_same_photo": Metric("lower", "rank-1, same photo", "as rank-1, with the very original in the gallery"),
    "reid_excess": Metric("lower", "over other_face", "rank-1 minus that of another person's face in the same context"),
    "reid_chance": Metric("lower", "chance", "rank-1 of a guess: one over the number of people in the gallery"),
    "tar_at_far_1e2": Metric("lower", "TAR at FAR 1e-2", "verified as the same person at one false accept in 100"),
    "tar_at_far_1e3": Metric("lower", "TAR at FAR 1e-3", "verified as the same person at one false accept in 1,000"),
    "memorization_gap": Metric(
        "lower", "memorization", "similarity on training faces minus that on val faces, unverified"
    ),
    "canary_auc": Metric(
        "lower",
        "canaries told",
        "how often a face planted in training comes out more like its original than one that was left out",
    ),
    "diversity_mean_cosine": Metric("lower", "sameness", "mean cosine between anonymized faces: 1 is one face for all"),
    "diversity_effective": Metric("higher", "variety", "effective number of distinct faces over the number of faces"),
    "nearest_training_identity": Metric(
        "lower", "nearest in training", "mean cosine of an anonymized face to the nearest training person"
    ),
    "plate_leak_rate": Metric("lower", "plate leak", "original serial still read, exactly or but for one character"),
    "plate_leak_candidates": Metric(
        "lower",
        "leak, 5 candidates",
        "original serial among a reader's five likeliest, exactly or but for one character",
    ),
    "easyocr_plate_acc": Metric(
        "higher",
        "plate reads",
        "intended serial read, over the reader's rate on originals; above 1 where new plates are easier to read",
    ),
    "plate_cer": Metric("lower", "plate CER", "character errors of the reading against the intended serial"),
    "val_map": Metric("higher", "mAP", "COCO mAP on the anonymized images against the original boxes"),
    "val_map50": Metric("higher", "mAP50", "the same at IoU 0.50"),
    "map_retention": Metric(
        "higher", "mAP kept", "mAP over that on the originals; above 1 where new regions are easier to find"
    ),
    "pp4av_ap50_face": Metric("higher", "PP4AV face AP50", "PP4AV's own protocol"),
    "pp4av_ar50_face": Metric("higher", "PP4AV face AR50", "PP4AV's own protocol"),
    "pp4av_ap50_plate": Metric("higher", "PP4AV plate AP50", "PP4AV's own protocol"),
    "pp4av_ar50_plate": Metric("higher", "PP4AV plate AR50", "PP4AV's own protocol"),
    "widerface_easy": Metric("higher", "WIDERFace easy", "WIDERFace's own protocol"),
    "widerface_medium": Metric("higher", "WIDERFace medium", "WIDERFace's own protocol"),
    "widerface_hard": Metric("higher", "WIDERFace hard", "WIDERFace's own protocol"),
    "kid": Metric("lower", "KID", "unbiased polynomial MMD of real and anonymized regions"),
    "kid_of_inpaint": Metric("lower", "KID over inpaint", "KID over that of OpenCV's inpainting"),
    "fid": Metric("lower", "FID", "Fréchet distance of real and anonymized regions; biased on few samples"),
    "coverage": Metric("higher", "coverage", "share of regions covered by half or more"),
    "coverage_outside": Metric("lower", "outside covered", "share of the pixels outside all regions that are covered"),
    "changed_outside_masks": Metric(
        "lower",
        "changed besides",
        "pixels that differ though they were not to be replaced, over those outside all regions",
    ),
    "false_replacements": Metric(
        "lower", "replaced in vain", "share of replaced boxes that hold no labeled face or plate"
    ),
    "attributes": Metric("higher", "attributes kept", "pose, expression and age as before"),
    "attack_parrot": Metric(
        "lower", "parrot attack", "people named in anonymized faces by a recognizer retrained on others of them"
    ),
    "attack_linkability": Metric("lower", "linkability", "rank-1 with anonymized faces as probes and as gallery"),
    "attack_restoration": Metric(
        "lower", "restoration", "rank-1 after a network that was trained to undo the anonymizer"
    ),
}


class Part(BaseModel):
    """A part of the scorecard: frozen, strict about names, without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(Part):
    """One figure, or why there is none.

    Attributes:
        value: The figure; None if it could not be measured.
        reason: Why it is None.
        interval: Its 95 % interval.
        n: How many regions, images or pairs it rests on.
        judge: The key of the judge in the scorecard's `judges`.
        chance: What a guess reaches, of an attack.
        better: Which way is better.
    """

    value: float | None = None
    reason: str | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    judge: str | None = None
    chance: float | None = None
    better: Better

    @model_validator(mode="after")
    def _value_or_reason(self) -> "Figure":
        if (self.value is None) == (self.reason is None):
            raise ValueError("a figure has a value, or the reason why it has none")
        return self


def figure(
    metric: str,
    value: float,
    *,
    n: int | None = None,
    interval: tuple[float, float] | None = None,
    judge: str | None = None,
    chance: float | None = None,
) -> Figure:
    """A figure with a value; the better direction is the metric's.

    Args:
        metric: A key of `METRICS`.
        value: Finite.
        n: How many samples it rests on.
        interval: Its 95 % interval.
        judge: The key of its judge.
        chance: What a guess reaches.
    """
    return Figure(value=float(value), n=n, interval=interval, judge=judge, chance=chance, better=METRICS[metric].better)


def null(metric: str, reason: str, *, n: int | None = None, judge: str | None = None) -> Figure:
    """A figure that could not be measured, with the reason."""
    return Figure(reason=reason, n=n, judge=judge, better=METRICS[metric].better)


class JudgeEntry(Part):
    """Who measured, and how it did on the originals.

    Attributes:
        kind: recognizer, reader, detector or features.
        name: The judge's name.
        library: The library that served it.
        weights: Where its weights come from.
        sha256: The weights' sha256.
        panel: ``held_out`` judges are in no loss and make the headline; ``second`` ones are further opinions, in no
            loss either; ``training`` ones were in losses, so their figures flatter.
        proof: What it reached on the originals, None if it could not be tried.
        floor: What it had to reach.
        blind: Why its figures are null, None if it can see.
    """

    kind: str
    name: str
    library: str
    weights: str
    sha256: str
    panel: Panel
    proof: float | None = None
    floor: float | None = None
    blind: str | None = None


class Row(Part):
    """The figures of one method on one slice by one panel of judges.

    Attributes:
        method: ``anonymizer`` or a baseline.
        boxes: Where the regions come from: the checkpoint's detector (end to end) or the annotation.
        panel: Which judges.
        slice: ``overall``, ``style:FR``, ``size:16-32``, ``kind:face``, ``time:night``, ``skin:darkest third`` ...
        figures: By metric, see `METRICS`.
    """

    method: str
    boxes: BoxSource
    panel: Panel
    slice: str
    figures: dict[str, Figure]


class Gate(Part):
    """A bound that a checkpoint must hold to be released. A figure that is null fails it."""

    name: str
    metric: str
    passed: bool
    value: float | None
    bound: float
    rule: str
    reason: str | None = None


def rules(gates: Gates) -> tuple[tuple[str, str, float], ...]:
    """Metric, rule and bound of each gate; those on training faces are last."""
    return (
        ("reid_excess", "upper bound at most", gates.max_reid_excess),
        ("plate_leak_rate", "upper bound at most", gates.max_plate_leak_rate),
        ("map_retention", "at least", gates.min_map_retention),
        ("coverage", "at least", gates.min_coverage),
        ("kid_of_inpaint", "at most", gates.max_kid_of_inpaint),
        ("memorization_gap", "upper bound at most", gates.max_memorization_gap),
    )


class Licence(Part):
    """The terms of some data or weights; spelled as in the published schema.

    Attributes:
        what: images, generator, recognizer ...
        name: Which.
        licence: Its terms; None if not known.
        commercial_use: Whether they allow it, to our reading; None if not known.
        trained_with: Whether the anonymizer learned from it or holds it; the others only judged.
    """

    what: str
    name: str
    licence: str | None
    commercial_use: bool | None
    trained_with: bool


class Requirement(Part):
    """A number that a standard asks for.

    Attributes:
        name: What is counted or measured.
        value: The count or rate; None if it is not measured.
        rule: ``at least``, ``at most``, or who answers it.
        bound: What is asked for; None if it is no number.
        holds: None if nobody knows.
        reason: Why there is no value, or why it holds or not.
    """

    name: str
    value: float | None = None
    rule: str
    bound: float | None = None
    holds: bool | None = None
    reason: str | None = None


class Subject(Part):
    """What was judged.

    Attributes:
        checkpoint: The checkpoint's or the folder's name.
        step: Generator steps of joint training; 0 of a folder.
        sha256: The version: of the checkpoint's manifest, or of the names and bytes of the folder's judged images.
        kind: A checkpoint, or a folder of images that somebody anonymized.
    """

    checkpoint: str
    step: int
    sha256: str
    kind: Literal["checkpoint", "folder"] = "checkpoint"


class DataFacts(Part):
    """What it was judged on."""

    fingerprint: str
    images: int
    faces: int
    plates: int
    identities: int
    serials: int
    left_out_crowd: int
    procedural: bool


class Scorecard(Part):
    """The figures of one checkpoint on one data set."""

    format: Literal["anony_pipeline.scorecard/2"] = FORMAT
    name: str
    subject: Subject
    data: DataFacts
    judges: dict[str, JudgeEntry]
    rows: tuple[Row, ...]
    gates: tuple[Gate, ...]
    treated: dict[str, int] = Field(
        description="what the anonymizer did on detected boxes: regions by method and reason"
    )
    styles_of_this_run: tuple[str, ...] | None = Field(
        None, description="None: all styles, and `overall` is of this run"
    )
    overall_of_this_run: bool = True
    profile: Profile | None = Field(None, description="what was done to regions; None: not known")
    licences: tuple[Licence, ...] = Field((), description="terms of data and weights; empty: not known")
    inspection: tuple[Requirement, ...] = Field((), description="the numbers of GB/T 44464-2024")
    attackers: dict[str, str | int] | None = Field(None, description="what trained attackers could spend; None: none")
    command: str

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_format(cls, content: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(content, dict) and content.get("format") in READABLE:
            return {**content, "format": FORMAT}
        return content

    def row(
        self,
        method: str = ANONYMIZER,
        *,
        slice_name: str = OVERALL,
        panel: Panel = "held_out",
        boxes: BoxSource | None = None,
    ) -> Row | None:
        """Find a row; the anonymizer's detected boxes stand before its ground-truth ones. None if there is none."""
        for row in self.rows:
            if (row.method, row.slice, row.panel) == (method, slice_name, panel) and boxes in (None, row.boxes):
                return row
        return None

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    @property
    def commercial_use(self) -> bool | None:
        """Whether the terms of all that it was trained with allow it; unknown ones don't. None if none are listed."""
        allowed = [terms.commercial_use is True for terms in self.licences if terms.trained_with]
        return all(allowed) if allowed else None


def load(path: UPath | Path) -> Scorecard:
    """Read a scorecard's file.

    Raises:
        AnonyPipelineError: If there is none yet, or it is no scorecard of a `READABLE` format.
    """
    try:
        return Scorecard.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise AnonyPipelineError(
            "there is no scorecard yet", where=path, do="run the demo, or `anony evaluate`"
        ) from error
    except (OSError, ValueError) as error:
        raise AnonyPipelineError(
            "the scorecard can't be read",
            where=path,
            got=_first_mistake(error) if isinstance(error, ValidationError) else str(error).splitlines()[0],
            allowed=f"a scorecard.json of format {' or '.join(READABLE)}",
            do="evaluate the checkpoint again",
        ) from error


def _first_mistake(error: ValidationError) -> str:
    """What is wrong first in a file that is no scorecard, in one line."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {str(first['input'])[:80]}"
