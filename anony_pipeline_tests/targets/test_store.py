import json
import stat

import numpy as np
import pytest

from anony_pipeline.errors import DatasetError
from anony_pipeline.targets.store import TargetRecord, TargetStore, key_of


@pytest.fixture
def store(tmp_path):
    return TargetStore(tmp_path / "targets", retention_days=1)


def record(number, key="k"):
    window = (-1.5, 0.0, 10.25, 12.0)
    return TargetRecord(number, "face", None, None, window, f"{key}.png", None, "donor_blend", key)


def test_crops_come_back_as_they_were_put(store):
    rng = np.random.default_rng(0)
    target, anchor = rng.integers(0, 256, (2, 16, 48, 3), dtype=np.uint8)
    store.put("abcd", target, anchor)
    assert store.has("abcd", anchor=True)
    assert np.array_equal(store.read(store.relative(store.file_of("abcd"))), target)
    assert np.array_equal(store.read(store.relative(store.file_of("abcd", "anchor"))), anchor)


def test_a_target_without_its_anchor_is_not_complete(store):
    store.put("abcd", np.zeros((4, 4, 3), np.uint8))
    assert store.has("abcd")
    assert not store.has("abcd", anchor=True)


def test_only_the_owner_can_read_what_holds_original_pixels(store):
    store.put("abcd", np.zeros((4, 4, 3), np.uint8))
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.file_of("abcd").stat().st_mode) == 0o600


def test_a_manifest_comes_back_and_does_not_depend_on_the_order(store):
    first = store.write_manifest("faces", [record(2), record(1)], {"method": "donor_blend"}).read_bytes()
    second = store.write_manifest("faces", [record(1), record(2)], {"method": "donor_blend"}).read_bytes()
    assert first == second
    assert store.read_manifest("faces") == [record(1), record(2)]


def test_a_missing_manifest_says_that_targets_are_to_be_made(store):
    with pytest.raises(DatasetError, match="not made yet"):
        store.read_manifest("faces")


def test_a_manifest_of_another_format_is_refused(store):
    (store.root / "faces.json").write_text(json.dumps({"format": "other/9", "targets": []}))
    with pytest.raises(DatasetError, match="another format"):
        store.read_manifest("faces")


@pytest.mark.parametrize(
    "change", [{"box": (0, 0, 8, 9)}, {"k": 6}, {"image": "b"}], ids=lambda change: next(iter(change))
)
def test_every_part_changes_the_key(change):
    parts = {"box": (0, 0, 8, 8), "k": 5, "image": "a"}
    assert key_of(**parts) == key_of(**dict(reversed(parts.items())))
    assert key_of(**parts) != key_of(**(parts | change))
