"""A procedural street data set in the real data sets' layouts: people, vehicles and plates of nobody."""

from anony_pipeline.datasets.streetscape.people import FaceCrop, Person, render_face_crop, render_head, sample_person
from anony_pipeline.datasets.streetscape.vehicles import PlateCrop, render_plate_crop
from anony_pipeline.datasets.streetscape.writer import StreetscapeReport, write

__all__ = [
    "FaceCrop",
    "Person",
    "PlateCrop",
    "StreetscapeReport",
    "render_face_crop",
    "render_head",
    "render_plate_crop",
    "sample_person",
    "write",
]
