"""Folds: every image in one, a sequence never in two, as even as that allows."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.config.schema import Source
from anony_pipeline.datasets import folds
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import DatasetError

SOURCES = (
    Source(name="stills", layout="widerface", root="a", exhaustive=("face",)),
    Source(name="frames", layout="pp4av", root="b", exhaustive=("face",)),
)


def a_set(stills, videos):
    """Stills, and videos of so many frames each."""
    names = [("stills", "event", f"event/{number}.jpg") for number in range(stills)]
    for video, frames in enumerate(videos):
        names += [("frames", "oslo", f"oslo/ride_{video}.mp4#t={frame}.jpg") for frame in range(frames)]
    images = [
        {"id": number + 7, "source": source, "group": group, "file_name": name}
        for number, (source, group, name) in enumerate(names)
    ]
    annotations = [{"id": image["id"] * 2, "image_id": image["id"]} for image in images]
    return CocoSet(Path("unified_train.json"), {}, images, annotations)


@given(
    stills=st.integers(0, 20), videos=st.lists(st.integers(1, 9), max_size=8), count=st.integers(2, 5), data=st.data()
)
def test_every_image_is_in_one_fold_and_no_video_in_two(stills, videos, count, data):
    coco = a_set(stills, videos)
    if stills + len(videos) < count:
        with pytest.raises(DatasetError, match="fewer sequences and stills than folds"):
            folds.folds_of(coco, SOURCES, count)
        return
    found = folds.folds_of(coco, SOURCES, count)
    assert set(found) == {image["id"] for image in coco.images}
    assert set(found.values()) == set(range(count))
    for video in range(len(videos)):
        mine = {found[image["id"]] for image in coco.images if f"ride_{video}." in image["file_name"]}
        assert len(mine) == 1
    sizes = Counter(found.values())
    # Greedy: a fold exceeds the smallest by at most its own last sequence.
    assert max(sizes.values()) - min(sizes.values()) <= max([1, *videos])
    left_out = data.draw(st.integers(0, count - 1))
    rest = folds.without_fold(coco, SOURCES, count, left_out)
    assert {image["id"] for image in rest.images} == {number for number, fold in found.items() if fold != left_out}
    assert {a["image_id"] for a in rest.annotations} == {image["id"] for image in rest.images}


def test_frames_without_a_videos_name_stay_with_their_group():
    images = [
        {"id": number, "source": "frames", "group": group, "file_name": f"images/{group}/{group}_{number:06d}.png"}
        for number, group in enumerate(["zurich"] * 3 + ["paris"] * 3)
    ]
    found = folds.folds_of(CocoSet(Path("x"), {}, images, []), SOURCES, 2)
    assert len({found[number] for number in range(3)}) == 1
    assert found[0] != found[3]


def test_stills_that_lie_in_the_layout_of_frames_stand_alone():
    source = SOURCES[1].model_copy(update={"sequences": False})
    assert len(set(folds.folds_of(a_set(0, [9]), (source,), 3).values())) == 3


@given(stills=st.integers(0, 12), videos=st.lists(st.integers(1, 6), max_size=3), count=st.integers(1, 30))
def test_some_images_are_drawn_evenly_over_the_sources(stills, videos, count):
    coco = a_set(stills, videos)
    drawn = folds.some(coco, count, seed=0)
    frames = sum(videos)
    assert len(drawn) == min(count, stills + frames)
    of_stills = sum(image["source"] == "stills" for image in drawn.images)
    assert abs(of_stills - (len(drawn) - of_stills)) <= 1 or of_stills == stills or len(drawn) - of_stills == frames
    assert {a["image_id"] for a in drawn.annotations} == {image["id"] for image in drawn.images}


def test_the_lot_is_another_with_another_seed_and_moves_little_when_an_image_joins():
    first, second = (folds.some(a_set(40, []), 10, seed) for seed in (0, 1))
    assert first.images != second.images
    joined = folds.some(a_set(41, []), 10, 0)
    names = [{image["file_name"] for image in found.images} for found in (first, joined)]
    assert len(names[0] & names[1]) >= 9
