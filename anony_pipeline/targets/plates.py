"""Pseudo-targets of license plates: a valid serial of the same style, rendered, and fitted into the scene."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from upath import UPath

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import DatasetError
from anony_pipeline.ops import crops, images
from anony_pipeline.plates import fit, render, serials
from anony_pipeline.plates.styles import NEUTRAL, PlateStyle, configured_styles
from anony_pipeline.runtime import parallel, seeding
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import selection
from anony_pipeline.targets.report import TargetReport
from anony_pipeline.targets.selection import Chosen
from anony_pipeline.targets.store import TargetRecord, TargetStore, key_of

VERSION = 12
"""Of the code that draws, renders and fits: a change of what it makes raises it, and then targets are made anew."""

METHOD = "render_fit"


@dataclass(frozen=True)
class Drawn:
    """A new plate before it is put into a scene: the serial and how it will look.

    Attributes:
        style: The plate style.
        serial: The intended serial.
        font_ratio: Glyph height over plate height.
        seed: Of dirt and wear.
    """

    style: PlateStyle
    serial: str
    font_ratio: float
    seed: int

    def render(self, region: Region) -> np.ndarray:
        """The plate seen from the front, ``(H, W, 3)`` uint8 RGB, in the shape and as large as the region needs it."""
        style = self.style.shaped(_aspect(region))
        size_hw = fit.drawing_size(style, region)
        rng = np.random.default_rng(self.seed)
        return render.render(style, self.serial, size_hw, font_ratio=self.font_ratio, rng=rng)


def make_plate_targets(config: Config, coco: CocoSet, styles: Sequence[str]) -> dict[str, TargetReport]:
    """Make the targets of all plates of the given styles, and write one manifest ``plates_<style>.json`` a style.

    A plate belongs to its image's `plate_style`, or to `unspecified`.

    Args:
        config: With the font ratios, the crop's size and the seed.
        coco: The training split.
        styles: The styles to make, keys of `plates.styles.configured_styles()`.

    Returns:
        One report a style, in the order of ``styles``.
    """
    known = configured_styles()
    store = TargetStore(Path(config.paths.targets), config.paths.retention_days)
    chosen, left_out = selection.choose(
        coco,
        Kind.PLATE,
        min_region_px=config.data.min_region_px,
        size_hw=plate_size_hw(config),
        context=config.model.generator.plate_context,
    )
    groups: dict[str, list[Chosen]] = {style: [] for style in styles}
    for item in chosen:
        key = item.region.style or NEUTRAL
        if key in groups:
            groups[key].append(item)
    too_small = Counter(region.style or NEUTRAL for region in left_out)
    return {
        style: _make_style(config, coco, known[style], items, store, too_small[style])
        for style, items in groups.items()
    }


def plate_size_hw(config: Config) -> tuple[int, int]:
    """Height and width of a plate crop in pixels: three times as wide as high."""
    height = config.model.generator.plate_height
    return (height, 3 * height)


def _make_style(
    config: Config, coco: CocoSet, style: PlateStyle, chosen: list[Chosen], store: TargetStore, too_small: int
) -> TargetReport:
    begin = time.monotonic()
    report = TargetReport(style.key, METHOD, regions=len(chosen) + too_small, too_small=too_small)
    drawn = {item.annotation["id"]: draw(config, style, item.annotation) for item in chosen}
    keys = _keys(config, coco, chosen, drawn)
    missing = [item for item in chosen if not store.has(keys[item.annotation["id"]], anchor=True)]
    made: set[int] = set()
    jobs = [
        _Job(
            coco.image_file(group[0].image),
            plate_size_hw(config),
            store,
            [_Plate(item, drawn[item.annotation["id"]], keys[item.annotation["id"]]) for item in group],
        )
        for group in selection.by_image(missing).values()
    ]
    for outcomes in parallel.each(_make_image, jobs, f"plate targets {style.key}"):
        for outcome in outcomes:
            if outcome.pair is None:
                report.fail(outcome.reason)
            else:
                made.add(outcome.annotation_id)
                report.show(*outcome.pair)
    without = {item.annotation["id"] for item in missing} - made
    for item in chosen:
        number = item.annotation["id"]
        if number not in without:
            report.add(_record(item, drawn[number], keys[number], store), reused=number not in made)
    report.records.sort(key=lambda record: record.annotation_id)
    facts = {
        "method": METHOD,
        "style": style.key,
        "regions": report.regions,
        "failed": report.failed,
        "too_small": too_small,
    }
    report.manifest = store.write_manifest(f"plates_{style.key}", report.records, facts)
    store.write_sheet(f"plates_{style.key}", report.examples)
    report.seconds = time.monotonic() - begin
    return report


def draw(config: Config, style: PlateStyle, annotation: dict[str, object]) -> Drawn:
    """Draw a serial and its looks, the same at every call for one annotation and seed.

    Args:
        config: With the seed and the font ratios.
        style: The plate style.
        annotation: Its `serial`, where it is known, is avoided.
    """
    rng = seeding.numpy_generator(config.seed, f"serial {style.key}", int(str(annotation["id"])))
    original = annotation.get("serial")
    serial = serials.draw(
        style,
        rng,
        avoid=[str(original)] if original else (),
        blocked=config.plate_text_blocked,
        unissued=True,
    )
    ratio = float(rng.uniform(config.plate_text_font_ratio_min, config.plate_text_font_ratio_max))
    return Drawn(style, serial, ratio, int(rng.integers(2**31)))


def _aspect(region: Region) -> float:
    if region.quad is None:
        width, height = region.size_wh
        return float(width / height)
    quad = np.array(region.quad)
    sides = np.hypot(*(np.roll(quad, -1, axis=0) - quad).T)
    return float((sides[0] + sides[2]) / max(sides[1] + sides[3], 1e-6))


def replace(image_rgb: np.ndarray, region: Region, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Put a drawn plate in the place of a region's plate.

    Returns:
        The whole image ``(H, W, 3)`` uint8 with the plate fitted in, which is both the target and the anchor that the
        generator starts from; and the ``(H, W)`` mask of what changed.
    """
    fitted = fit.fit(image_rgb, region, drawn.render(region))
    return fitted.image, fitted.mask


@dataclass(frozen=True)
class _Plate:
    """One plate of a job."""

    item: Chosen
    drawn: Drawn
    key: str


@dataclass(frozen=True)
class _Job:
    """One image and its plates."""

    image: Path | UPath
    size_hw: tuple[int, int]
    store: TargetStore
    plates: list[_Plate]


@dataclass(frozen=True)
class _Outcome:
    """What became of one plate: the original and the target crop, or the reason why there is none."""

    annotation_id: int
    pair: tuple[np.ndarray, np.ndarray] | None
    reason: str = ""


def _make_image(job: _Job) -> list[_Outcome]:
    image = images.read(job.image)
    outcomes = []
    for plate in job.plates:
        item, number = plate.item, plate.item.annotation["id"]
        try:
            replaced, _ = replace(image, item.region, plate.drawn)
        except DatasetError as error:  # its box lies outside the image, or its quad crosses itself
            outcomes.append(_Outcome(number, None, error.what))
            continue
        original, target = (crops.cut(picture, item.window, job.size_hw) for picture in (image, replaced))
        job.store.put(plate.key, target, target)
        outcomes.append(_Outcome(number, (original, target)))
    return outcomes


def _keys(config: Config, coco: CocoSet, chosen: list[Chosen], drawn: dict[int, Drawn]) -> dict[int, str]:
    sums = selection.image_sums(coco, chosen)
    return {
        item.annotation["id"]: key_of(
            version=VERSION,
            method=METHOD,
            image=sums[item.image["id"]],
            box=item.region.box_xyxy,
            quad=item.region.quad,
            window=item.window,
            size=plate_size_hw(config),
            style=drawn[item.annotation["id"]].style.model_dump(mode="json"),
            serial=drawn[item.annotation["id"]].serial,
            font_ratio=drawn[item.annotation["id"]].font_ratio,
            seed=drawn[item.annotation["id"]].seed,
        )
        for item in chosen
    }


def _record(item: Chosen, drawn: Drawn, key: str, store: TargetStore) -> TargetRecord:
    return TargetRecord(
        annotation_id=item.annotation["id"],
        kind=Kind.PLATE.value,
        style=drawn.style.key,
        serial=drawn.serial,
        window=item.window,
        target_file=store.relative(store.file_of(key)),
        anchor_file=store.relative(store.file_of(key, "anchor")),
        method=METHOD,
        key=key,
    )
