"""Anonymize files and folders of images: mirrored tree, ledger, report, resumable, and nothing half done."""

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anony_pipeline.anonymize import marking
from anony_pipeline.anonymize.anonymizer import Anonymized, Anonymizer, Job
from anony_pipeline.anonymize.labels import Labels, found_labels
from anony_pipeline.anonymize.loading import load_anonymizer, open_checkpoint
from anony_pipeline.config.schema import Profile
from anony_pipeline.errors import AnonyPipelineError, MediaError, PrivacyError
from anony_pipeline.models import weights
from anony_pipeline.ops import images, xmp
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import atomic, manifests

LEDGER, REPORT, ANNOTATIONS = "ledger.jsonl", "report.json", "annotations.json"
FORMAT = "anony_pipeline.ledger/1"
IMAGES_AT_ONCE = 4
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Another image would fail alike; what is finished stays, and the same call goes on."""


@dataclass(frozen=True)
class Problem:
    """An image for which nothing was written, and why."""

    image: str
    reason: str


@dataclass
class FolderReport:
    """What was done to a set of images.

    Attributes:
        written: Names of the images that were written, relative to the output folder; with `dry_run`, that would be.
        skipped: Images that an earlier run had finished.
        problems: Images for which nothing was written.
        unmarked: Images, of `written` and `skipped`, with generated regions in formats that can't carry the mark that
            says so (see `marking`).
        other_files: Counts by suffix of files in the folders that are no images of a known format; none is written.
        regions: Counts by kind and method, ``"face generated"``, of all images of `written` and `skipped`.
        reasons: Counts of why regions of these were not generated.
        dry_run: Whether nothing was done.
        seconds: Wall time.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dry_run: bool = False
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 if every image was written or had been, 1 otherwise."""
        return 1 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "written": self.written,
            "skipped": self.skipped,
            "problems": [asdict(problem) for problem in self.problems],
            "unmarked": self.unmarked,
            "other_files": dict(self.other_files),
            "regions": dict(self.regions),
            "reasons": dict(self.reasons),
            "dry_run": self.dry_run,
            "seconds": self.seconds,
            "exit_status": self.exit_status,
        }


def anonymize_folder(
    inputs: Sequence[Path],
    checkpoint: Path,
    output: Path,
    *,
    boxes: Path | None = None,
    dry_run: bool = False,
    profile: Profile | None = None,
    face_detector: Path | None = None,
    device: str = "auto",
) -> FolderReport:
    """Anonymize images and folders of images with a checkpoint.

    The output folder gets the images under their own names and in their own format, without metadata but the mark of
    what was generated (see `marking`), ``ledger.jsonl``, ``annotations.json`` (the given labels without who it was, or
    what was found) and ``report.json``. A run that was broken off is continued by the same call.

    Args:
        inputs: Images, and folders that are searched through and mirrored.
        checkpoint: A folder ``checkpoints/step_XXXXXX``.
        output: Another folder than the inputs.
        boxes: COCO file with the regions to replace; the checkpoint's detector looks for them if None.
        dry_run: List what would be done, and do nothing.
        profile: ``realistic``, ``blur`` or ``solid``; the checkpoint's if None.
        face_detector: YuNet's ONNX file, whose faces are replaced too (see `loading.with_faces`).
        device: ``auto``, ``cpu``, ``cuda`` ...

    Raises:
        PrivacyError: If the output lies where the originals lie.
        MediaError: If there is nothing to do, if two images would get one name, if files of somebody else lie where
            results would go, or if the disk is full.
        DatasetError: If the boxes can't be right (see `Labels.read`).
        CheckpointError: If the checkpoint is incomplete.
    """
    begin = time.monotonic()
    sources, problems = find_images(inputs, output)
    _refuse_foreign([*sources, ANNOTATIONS, REPORT], output)
    labels = Labels.read(boxes, sources) if boxes is not None else None
    opened = open_checkpoint(checkpoint)
    report = FolderReport(problems=problems, dry_run=dry_run, other_files=_other_files(inputs))
    regions = manifests.sha256_of(boxes) if boxes is not None else "detected"
    settings = {
        "regions": regions,
        "profile": profile or opened.config.profile,
        "face_detector": None if face_detector is None else weights.check_sha256(face_detector, None),
    }
    ledger = Ledger(output / LEDGER, {"checkpoint": opened.sha256, **settings})
    todo = {name: path for name, path in sources.items() if not _finished(name, path, output, labels, ledger)}
    report.skipped = [name for name in sources if name not in todo]
    if dry_run:
        report.written = list(todo)
        return report
    output.mkdir(parents=True, exist_ok=True)
    ledger.rewrite()
    if todo:
        _run(
            todo,
            load_anonymizer(checkpoint, device, profile=profile, face_detector=face_detector),
            output,
            labels,
            ledger,
            report,
        )
    finished = [name for name in sources if name in ledger.done]
    document = labels.kept(finished) if labels is not None else found_labels(finished, ledger.rows, output)
    atomic.write_json(output / ANNOTATIONS, document)
    _count(finished, ledger, report)
    report.seconds = round(time.monotonic() - begin, 2)
    atomic.write_json(output / REPORT, report.as_json())
    return report


def find_images(inputs: Sequence[Path], output: Path) -> tuple[dict[str, Path], list[Problem]]:
    """List the images below the inputs by the names that they will have in the output folder.

    Args:
        inputs: Images and folders. One folder is mirrored as it is; several keep their own names as first part.
        output: Must not be, hold or lie in an input folder.

    Returns:
        The images, and those whose name or format can't be written.

    Raises:
        PrivacyError: If the output lies where the originals lie.
        MediaError: If an input is missing, there is no image, or two would get one name.
    """
    sources: dict[str, Path] = {}
    problems: list[Problem] = []
    for given in inputs:
        _refuse_same_place(given, output)
        for path in _images_of(given):
            relative = path.relative_to(given) if given.is_dir() else Path(path.name)
            name = (Path(given.name) / relative if given.is_dir() and len(inputs) > 1 else relative).as_posix()
            if reason := _unfit(name):
                problems.append(Problem(_printable(name), reason))
                continue
            if name in sources:
                raise MediaError(
                    "two images would get one name",
                    where=output / name,
                    got=f"{sources[name]} and {path}",
                    do="anonymize them into two folders",
                )
            sources[name] = path
    if not sources:
        raise MediaError(
            "there is no image to anonymize",
            where=", ".join(_printable(str(given)) for given in inputs),
            got="; ".join(f"{problem.image}: {problem.reason}" for problem in problems) or None,
            allowed=" ".join(images.SUFFIXES),
        )
    return sources, problems


def _unfit(name: str) -> str | None:
    """Why an image can't have this name in the output folder."""
    if _printable(name) != name:
        return "the file's name is not UTF-8, as JSON's must be: rename it"
    if Path(name).suffix.lower() not in images.SUFFIXES:
        return f"unknown image format: convert it to one of {' '.join(images.SUFFIXES)}"
    return None


def _printable(name: str) -> str:
    r"""A file's name with the bytes that are no UTF-8, which Python reads as lone surrogates, as ``\xe9``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _images_of(given: Path) -> Iterable[Path]:
    if given.is_dir():
        return sorted(p for p in given.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file())
    if not given.exists():
        raise MediaError("the input is not there", where=given, do="check the path")
    return [given]


def _other_files(inputs: Sequence[Path]) -> Counter[str]:
    others = (
        _printable(path.suffix.lower() or path.name)
        for given in inputs
        if given.is_dir()
        for path in given.rglob("*")
        if path.is_file() and path.suffix.lower() not in images.SUFFIXES
    )
    return Counter(sorted(others))


def _refuse_foreign(names: Sequence[str], output: Path) -> None:
    """Refuse to replace files in a folder without a ledger, which a run begins with."""
    if (output / LEDGER).exists() or not (taken := [name for name in names if (output / name).exists()]):
        return
    raise MediaError(
        "files lie where results would go, and no run made them",
        where=output,
        got=taken[0] if len(taken) == 1 else f"{taken[0]} and {len(taken) - 1} more",
        do="name another output folder, or move them",
    )


def _refuse_same_place(given: Path, output: Path) -> None:
    originals, target = (given if given.is_dir() else given.parent).resolve(), output.resolve()
    if originals == target or (given.is_dir() and (originals in target.parents or target in originals.parents)):
        raise PrivacyError(
            "the output lies where the originals lie: what was anonymized could no longer be told from what was not",
            where=output,
            got=given,
            do="name an output folder of its own",
        )


class Ledger:
    """``ledger.jsonl``: a head, then of each image its regions' rows and a last row that says the image is finished."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """Read what an earlier run left.

        Args:
            path: The file; it need not be there.
            head: What must be equal for a run to be continued.

        Raises:
            PrivacyError: If an earlier run was made otherwise.
        """
        self.path, self.head = path, {"format": FORMAT, **head}
        self.done: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        waiting: list[dict[str, Any]] = []
        lines = self.path.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):  # the line that a killed run was writing
                    break
                raise MediaError("a row of the ledger can't be read", where=f"{self.path}:{number}") from error
            if "format" in row:
                self._check(row)
            elif "sha256" in row:
                self.done[row["image"]], self.rows[row["image"]] = row, waiting
                waiting = []
            else:
                waiting.append(row)

    def _check(self, row: dict[str, Any]) -> None:
        if row != self.head:
            raise PrivacyError(
                "the output folder holds images that were anonymized otherwise",
                where=self.path,
                got=row,
                allowed=self.head,
                do="name another output folder, or remove this one",
            )

    def rewrite(self) -> None:
        """Write what is finished, without what a killed run left unfinished."""
        lines = [self.head]
        for name, last in self.done.items():
            lines += [*self.rows[name], last]
        atomic.write_text(self.path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))

    def forget(self, name: str) -> None:
        """Take out an image whose output is not there any more."""
        self.done.pop(name, None)
        self.rows.pop(name, None)

    def append(self, name: str, rows: list[dict[str, Any]], sha256: str) -> None:
        """Add a finished image."""
        last = {"image": name, "regions": len(rows), "sha256": sha256}
        self.done[name], self.rows[name] = last, rows
        with self.path.open("a") as file:
            file.write("".join(json.dumps(line, sort_keys=True) + "\n" for line in [*rows, last]))


def _finished(name: str, source: Path, output: Path, labels: Labels | None, ledger: Ledger) -> bool:
    path = output / name
    whole = name in ledger.done and path.is_file() and manifests.sha256_of(path) == ledger.done[name]["sha256"]
    # Of two images that now claim one record, neither has it: what it was anonymized by may be the other's.
    known = labels is None or name in labels.record_of
    # Another image may have taken the original's name since.
    if whole and known and source.stat().st_mtime_ns <= path.stat().st_mtime_ns:
        return True
    ledger.forget(name)
    return False


def _run(
    todo: Mapping[str, Path],
    anonymizer: Anonymizer,
    output: Path,
    labels: Labels | None,
    ledger: Ledger,
    report: FolderReport,
) -> None:
    names = list(todo)
    batches = [names[start : start + IMAGES_AT_ONCE] for start in range(0, len(names), IMAGES_AT_ONCE)]
    for batch in track(batches, "anonymizing images"):
        jobs = []
        for name in batch:
            try:
                jobs.append(_job(name, images.read(todo[name]), labels))
            except AnonyPipelineError as error:
                report.problems.append(Problem(name, str(error.what)))
        for job, done in zip(jobs, anonymizer.anonymize_batch(jobs), strict=True):
            try:
                _finish(job.name, done, output, ledger, report)
            except MediaError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL:
                    raise
                report.problems.append(Problem(job.name, str(error.what)))


def _job(name: str, image_rgb: np.ndarray, labels: Labels | None) -> Job:
    if labels is None:
        return Job(image_rgb, name)
    return Job(image_rgb, name, labels.regions(name, image_rgb.shape[:2]))


def _finish(name: str, done: Anonymized, output: Path, ledger: Ledger, report: FolderReport) -> None:
    path = output / name
    images.write(path, done.image_rgb, packet=marking.packet(done.rows))
    ledger.append(name, [row.as_json(name) for row in done.rows], manifests.sha256_of(path))
    report.written.append(name)


def _count(finished: Sequence[str], ledger: Ledger, report: FolderReport) -> None:
    """From the ledger, so that what an earlier call did is not forgotten."""
    for name in finished:
        rows = ledger.rows[name]
        report.regions.update(f"{row['kind']} {row['method']}" for row in rows)
        report.reasons.update(row["reason"] for row in rows if "reason" in row)
        if any(row["method"] == "generated" for row in rows) and Path(name).suffix.lower() not in xmp.SUFFIXES:
            report.unmarked.append(name)
