"""Loading: the same examples in the same order by any number of workers, and never more of them than agreed."""

import itertools
import threading

import numpy as np
import pytest
from upath import UPath

from anony_pipeline.config.schema import Config, Paths
from anony_pipeline.datasets import loaders, unify
from anony_pipeline.errors import DatasetError, MediaError
from anony_pipeline.ops import images
from anony_pipeline_tests.datasets import layouts

TEXT = "0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n"


def config_of(folder, count=12, root=None):
    root = root if root is not None else folder / "raw"
    source = layouts.write_pp4av(root, {f"paris/{i}": TEXT if i % 3 else "" for i in range(count)})
    config = Config(data=layouts.data(source), paths=Paths(unified=str(folder / "u"), cache=str(folder / "cache")))
    unify.ensure_unified(config)
    return config


@pytest.mark.parametrize("workers", [0, 1, 3, 20])
def test_every_image_comes_once_in_order_with_its_regions_and_annotations(tmp_path, workers):
    unified = loaders.open_split(config_of(tmp_path), "train")
    found = list(loaders.examples(unified, workers=workers))
    assert [example.image for example in found] == unified.images
    for image, image_rgb, regions, annotations in found:
        assert np.array_equal(image_rgb, images.read(unified.image_file(image)))
        assert [region.annotation_id for region in regions] == [annotation["id"] for annotation in annotations]
        assert [region.kind for region in regions] in ([], ["face", "license_plate"])


def test_decoded_images_that_wait_are_bounded(tmp_path, monkeypatch):
    unified = loaders.open_split(config_of(tmp_path, 40), "train")
    read, lock, reads = images.read, threading.Lock(), itertools.count()
    started = [0]

    def counted(path):
        with lock:
            started[0] = next(reads) + 1
        return read(path)

    monkeypatch.setattr(images, "read", counted)
    for taken, _ in enumerate(loaders.examples(unified, workers=2), start=1):
        assert started[0] <= taken + loaders.AHEAD * 2
    assert started[0] == 40


def test_a_caller_that_stops_early_leaves_no_thread_behind(tmp_path):
    unified = loaders.open_split(config_of(tmp_path), "train")
    iterator = loaders.examples(unified, workers=2)
    next(iterator)
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_was_lost_since_stops_the_loading(tmp_path, workers):
    unified = loaders.open_split(config_of(tmp_path), "train")
    unified.image_file(unified.images[5]).unlink()
    with pytest.raises(MediaError, match=r"images/paris/5\.jpg"):
        list(loaders.examples(unified, workers=workers))


def test_images_of_a_remote_root_are_copied_once_into_a_private_folder(tmp_path):
    unified = loaders.open_split(config_of(tmp_path, root=UPath(f"memory://{tmp_path.name}/raw")), "train")
    cache = tmp_path / "cache/images"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert len(list(cache.glob("*.jpg"))) == 12
    first = unified.image_file(unified.images[0])
    assert first.parent == cache
    UPath(f"memory://{tmp_path.name}/raw/images").fs.rm(f"/{tmp_path.name}/raw/images", recursive=True)
    with pytest.raises(MediaError, match="can't be read"):  # gone is gone: a copy doesn't hide it
        list(loaders.examples(unified))


def test_a_split_that_was_not_made_is_an_error(tmp_path):
    config = Config(data=layouts.data(layouts.pp4av_source(tmp_path)), paths=Paths(unified=str(tmp_path)))
    with pytest.raises(DatasetError, match="no such unified file"):
        loaders.open_split(config, "val")
