"""Splits: contiguous, without leaks over borders, and the same each time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.config.schema import Splits
from anony_pipeline.datasets import splits
from anony_pipeline.datasets.sources import SourceImage
from anony_pipeline.errors import ConfigError


def frames(count, group="paris", name="frame_{}.png"):
    return [SourceImage(f"images/{group}/{name.format(number)}", "", group) for number in range(count)]


def test_every_fifth_block_of_fifty_is_val_with_five_frames_left_out_on_each_side():
    chosen = splits.of_sequences(frames(500), Splits())
    expected = ["train"] * 195 + [None] * 10 + ["val"] * 40 + [None] * 10 + ["train"] * 190 + [None] * 10 + ["val"] * 45
    assert chosen == expected


def test_blocks_end_with_their_group_and_are_counted_on():
    images = [image for group in "abcdef" for image in frames(10, group)]
    chosen = splits.of_sequences(images, Splits())
    assert chosen == ["train"] * 40 + ["val"] * 10 + ["train"] * 10  # no border: other places, other people


def test_blocks_end_with_their_video_where_names_tell_it():
    images = frames(6, name="a.mp4#t={}.jpg") + frames(6, name="b.mp4#t={}.jpg")
    chosen = splits.of_sequences(images, Splits(block_frames=6, border_frames=1, val_every=2))
    assert chosen == ["train"] * 6 + ["val"] * 6


@given(
    lengths=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=1),
    block=st.integers(3, 20),
    every=st.integers(2, 6),
    border=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_a_split_depends_on_the_names_alone_and_keeps_its_borders(lengths, block, every, border, seed):
    settings = Splits(block_frames=block, val_every=every, border_frames=border)
    images = [image for group, count in sorted(lengths.items()) for image in frames(count, group)]
    chosen = splits.of_sequences(images, settings)
    shuffled = random.Random(seed).sample(range(len(images)), len(images))
    again = splits.of_sequences([images[i] for i in shuffled], settings)
    assert [chosen[i] for i in shuffled] == again
    for first in range(len(images)):
        for second in range(first + 1, min(len(images), first + 1 + 2 * border)):
            if images[first].group == images[second].group:
                assert {chosen[first], chosen[second]} != {"train", "val"}


@given(st.sets(st.text(min_size=1), min_size=1, max_size=30), st.integers(2, 6))
def test_a_still_keeps_its_split_whatever_else_is_there(names, every):
    images = [SourceImage(name, "", None) for name in sorted(names)]
    together = splits.of_stills(images, Splits(val_every=every))
    alone = [splits.of_stills([image], Splits(val_every=every))[0] for image in images]
    assert together == alone


def test_about_one_of_five_stills_is_val():
    chosen = splits.of_stills(frames(5000), Splits())
    assert 900 < chosen.count("val") < 1100


def test_blocks_that_borders_would_swallow_are_refused():
    with pytest.raises(ConfigError, match="all be left out"):
        splits.check(Splits(block_frames=10, border_frames=5))
