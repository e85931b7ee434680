"""What a plate style is made of. Lengths are millimeters on the plate, from its top left corner."""

import functools
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anony_pipeline.plates.styles.grammar import Grammar

Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Length = Annotated[float, Field(ge=0)]
PositiveLength = Annotated[float, Field(gt=0)]
Box = tuple[Length, Length, Length, Length]
"""``(x_min, y_min, x_max, y_max)`` in mm."""

NEUTRAL = "unspecified"
"""The style of no country: of plates, and of images, whose style nobody knows. It is a partition, too."""

DOUBT = 0.35
"""Of the logarithm of the aspect: a plate of 520 x 110 mm that is seen under 60 degrees still counts as one."""


class Part(BaseModel):
    """A part of a style: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Colors(Part):
    """The plate's ground and its text."""

    background: Color
    text: Color


class Border(Part):
    """The line along the plate's edge."""

    color: Color
    width_mm: PositiveLength
    inset_mm: Length = Field(0, description="from the plate's edge to the line's outer side")
    radius_mm: Length = Field(0, description="of the line's outer corners")


class Band(Part):
    """A colored strip over the plate's height or width, such as the European Union's."""

    side: Literal["left", "right", "top"]
    width_mm: PositiveLength = Field(description="across the strip")
    color: Color
    texts: tuple[str, ...] = Field((), description="one of them is written on it, the same for the same serial")
    text_color: Color = "#ffffff"
    stars: Color | None = Field(None, description="color of the European Union's twelve stars; none if None")


class Caption(Part):
    """Small text beside the serial, such as a state's name."""

    texts: tuple[str, ...] = Field(min_length=1, description="one of them is written, the same for the same serial")
    box_mm: Box
    color: Color
    face: str = Field("DejaVuSans-Bold", description="a font's file name without its suffix")


class Emblem(Part):
    """A shield or sticker."""

    kind: Literal["shield", "cross_shield", "sticker"]
    box_mm: Box
    colors: tuple[Color, ...] = Field(min_length=1, max_length=2, description="field, and cross or second field")
    colors_by: dict[str, tuple[Color, Color]] = Field(
        default_factory=dict, description="other colors by the serial's first piece, such as a canton's code"
    )


class Script(Part):
    """A face for characters of another script, such as the syllables on Korean plates."""

    face: str
    package: str = Field(description="what to install where the face is missing")


class Font(Part):
    """How the serial's characters are drawn."""

    face: str = Field(
        description="`strokes` (`plates.strokes`), or a font's file name without its suffix, found in matplotlib's or "
        "the system's fonts"
    )
    package: str | None = Field(None, description="what to install where the font is missing")
    fallback: str = Field("DejaVuSans-Bold", description="a face that matplotlib brings")
    scripts: tuple[Script, ...] = Field((), description="for characters other than Latin letters and digits")
    forms: tuple[Literal["1bar"], ...] = Field(
        (), description="of `strokes`: other forms of a character, such as a 1 that is hardly more than a bar"
    )
    condense: Annotated[float, Field(gt=0.3, le=2)] = Field(1, description="width of the characters over the font's")
    weight: Annotated[float, Field(ge=0, lt=0.25)] = Field(
        0,
        description="of `strokes`: width of a stroke over the characters' height; otherwise what is added to each side "
        "of a stroke, likewise",
    )
    roundness: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.5, description="of `strokes`: radius of rounded corners over the characters' width"
    )


class Spacing(Part):
    """Widths between characters, for characters of the nominal height."""

    character_mm: Length = Field(description="between neighbors")
    cell_mm: Length = Field(0, description="least room for a character, in whose middle a narrow one stands")
    gap_mm: Length = Field(12, description="a gap (`_`)")
    hyphen_mm: Length = Field(14, description="length of a hyphen (`-`)")
    dot_mm: Length = Field(10, description="diameter of a dot (`.`)")
    seal_mm: Length = Field(30, description="diameter of a seal (`*`)")


class Variant(Part):
    """Another shape of the same plate, such as the square or the motorcycle's; the serial is the same."""

    size_mm: tuple[PositiveLength, PositiveLength]
    text_area_mm: Box
    glyph_height_mm: PositiveLength
    row_break: int | None = Field(
        None, ge=1, description="which mark of each pattern begins the second row; none if None"
    )
    row_shares: tuple[PositiveLength, ...] = ()
    bands: tuple[Band, ...] | None = Field(None, description="the style's if None")
    captions: tuple[Caption, ...] = ()
    emblems: tuple[Emblem, ...] = ()
    font: Font | None = Field(None, description="the style's if None")


class PlateStyle(Part):
    """A country's or state's plate, from its size to its grammar.

    Example:
        >>> from anony_pipeline.plates.styles import load_styles
        >>> load_styles()["FR"].size_mm
        (520.0, 110.0)
    """

    key: str = Field(pattern=r"^([A-Z][A-Z0-9_]*|unspecified)$", description="names the style and its partition")
    name: str
    size_mm: tuple[PositiveLength, PositiveLength] = Field(description="width and height")
    colors: Colors
    border: Border | None = None
    bands: tuple[Band, ...] = ()
    captions: tuple[Caption, ...] = ()
    emblems: tuple[Emblem, ...] = ()
    text_area_mm: Box = Field(description="where the serial stands; no character leaves it")
    glyph_height_mm: PositiveLength = Field(description="nominal height of the characters")
    row_shares: tuple[PositiveLength, ...] = Field((), description="heights of the rows to each other; alike if none")
    spacing: Spacing
    font: Font
    serial: Grammar
    variants: dict[str, Variant] = Field(default_factory=dict, description="other shapes by name")
    sources: dict[str, str] = Field(min_length=1, description="fact -> where it is from")

    def __hash__(self) -> int:
        return hash((self.key, self.size_mm))

    @functools.cached_property
    def shapes(self) -> dict[str, "PlateStyle"]:
        """The style in each of its shapes, by name; its own is `standard`."""
        return {"standard": self} | {name: self._in_shape(variant) for name, variant in self.variants.items()}

    def shaped(self, aspect: float) -> "PlateStyle":
        """The shape whose width over height is nearest to a plate's in a picture, the standard one in doubt.

        A long plate seen from the side looks shorter, but no square one looks longer.
        """

        def unlike(shape: PlateStyle) -> float:
            distance = abs(math.log(shape.size_mm[0] / shape.size_mm[1] / aspect))
            return distance if shape is self else distance + DOUBT

        return min(self.shapes.values(), key=unlike)

    def _in_shape(self, variant: Variant) -> "PlateStyle":
        changes: dict[str, Any] = {
            name: value for name, value in variant if value is not None and name not in ("row_break", "row_shares")
        }
        changes["row_shares"] = variant.row_shares
        changes["serial"] = self.serial.broken_at(variant.row_break)
        fields = {name: getattr(self, name) for name in PlateStyle.model_fields}
        return PlateStyle.model_validate(fields | changes | {"variants": {}})

    @model_validator(mode="after")
    def _shapes_are_sound(self) -> Self:
        for name, variant in self.variants.items():
            try:
                self._in_shape(variant)
            except ValidationError as error:
                raise ValueError(f"variants.{name}: {error.errors()[0]['msg']}") from error
        return self

    @model_validator(mode="after")
    def _parts_lie_on_the_plate(self) -> Self:
        width, height = self.size_mm
        boxes = {"text_area_mm": self.text_area_mm}
        boxes |= {f"captions.{i}.box_mm": caption.box_mm for i, caption in enumerate(self.captions)}
        boxes |= {f"emblems.{i}.box_mm": emblem.box_mm for i, emblem in enumerate(self.emblems)}
        for key, (x_min, y_min, x_max, y_max) in boxes.items():
            if not (x_min < x_max <= width and y_min < y_max <= height):
                raise ValueError(f"{key} must be x_min y_min x_max y_max inside {width:g} x {height:g} mm")
        self._check_text_area()
        if self.row_shares and len(self.row_shares) != self.serial.rows:
            raise ValueError(f"row_shares must have a share for each of the serial's {self.serial.rows} rows")
        return self

    def _check_text_area(self) -> None:
        edge = self.border.inset_mm + self.border.width_mm if self.border else 0
        inside = [edge, edge, self.size_mm[0] - edge, self.size_mm[1] - edge]
        for band in self.bands:
            reach = edge + band.width_mm
            if band.side == "right":
                inside[2] = min(inside[2], self.size_mm[0] - reach)
            else:
                index = 0 if band.side == "left" else 1
                inside[index] = max(inside[index], reach)
        area = self.text_area_mm
        if area[0] < inside[0] or area[1] < inside[1] or area[2] > inside[2] or area[3] > inside[3]:
            free = " ".join(f"{value:g}" for value in inside)
            raise ValueError(f"text_area_mm must lie inside the border and beside the bands: {free}")
