import hashlib
import json
import pickle
import zipfile

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import weights


@pytest.fixture
def network():
    return torch.nn.Linear(3, 2)


def shipped_folder(root, **files):
    entries = {}
    for name, data in files.items():
        (root / name).write_bytes(data)
        entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (root / "manifest.json").write_text(json.dumps({"files": entries}))
    return root


def test_half_weights_come_back_as_the_same_rounded_floats(tmp_path, network):
    weights.round_to_half(network)
    weights.save_half(tmp_path / "n.safetensors", network)
    loaded = weights.load_into(
        torch.nn.Linear(3, 2), weights.load_safetensors(tmp_path / "n.safetensors"), tmp_path / "n.safetensors"
    )
    assert torch.equal(loaded.weight, network.weight)
    assert loaded.weight.dtype == torch.float32
    assert not loaded.weight.requires_grad


def test_a_file_with_another_sha256_is_refused_and_both_sums_are_named(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"another sha256[\s\S]*a\.safetensors[\s\S]*got:[\s\S]*" + "0" * 64):
        weights.load_safetensors(file, sha256="0" * 64)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_where_safetensors_is_expected_is_refused_without_running_it(tmp_path, how):
    file = tmp_path / "a.safetensors"

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    if how == "torch":
        torch.save({"x": Bomb()}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match="a pickle stands where safetensors is expected"):
        weights.load_safetensors(file)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="no safetensors file"):
        weights.load_safetensors(file)


def test_another_architectures_weights_are_refused(tmp_path, network):
    state = {"weight": torch.zeros(4, 4), "bias": torch.zeros(4)}
    with pytest.raises(WeightsError, match=r"another architecture[\s\S]*where:[\s\S]*f\.safetensors"):
        weights.load_into(network, state, tmp_path / "f.safetensors")


def test_shipped_files_are_checked_against_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED", shipped_folder(tmp_path, good=b"1", bad=b"2"))
    assert weights.shipped("good") == tmp_path / "good"
    (tmp_path / "bad").write_bytes(b"3")
    with pytest.raises(WeightsError, match="another sha256"):
        weights.shipped("bad")
    with pytest.raises(WeightsError, match=r"no such shipped weights[\s\S]*allowed: bad, good"):
        weights.shipped("other")


def test_a_local_file_and_a_local_folder_are_found_before_any_source(tmp_path):
    (tmp_path / "mine.onnx").write_bytes(b"1")
    (tmp_path / "buffalo_s").mkdir()
    assert weights.resolve("mine.onnx", tmp_path, offline=True) == tmp_path / "mine.onnx"
    assert weights.resolve("buffalo_s", tmp_path, offline=True) == tmp_path / "buffalo_s"


def test_a_known_pack_with_a_wrong_file_is_refused(tmp_path):
    (tmp_path / "buffalo_l").mkdir()
    (tmp_path / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"1")
    with pytest.raises(WeightsError, match=r"another sha256[\s\S]*4c06341c33c2ca1f"):
        weights.resolve("buffalo_l", tmp_path, offline=True)


def test_missing_weights_offline_name_every_place_that_was_tried_and_the_expected_sum(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        weights.resolve("buffalo_l", tmp_path, offline=True)
    message = str(caught.value)
    for part in (
        str(tmp_path / "buffalo_l"),
        "buffalo_l.zip",
        "4c06341c33c2ca1f",
        "or name `shipped`",
        "sd2-inpainting",
    ):
        assert part in message


def test_missing_hub_weights_offline_name_mirror_and_origin_in_order(tmp_path):
    with pytest.raises(WeightsError) as caught:
        weights.resolve("sd2-inpainting", tmp_path, offline=True)
    message = str(caught.value)
    assert message.index(str(tmp_path)) < message.index("sd2-community/") < message.index("stabilityai/")


@pytest.mark.parametrize("gone", [1, 2], ids=["the mirror is gone", "both are gone"])
def test_where_the_mirror_gives_nothing_the_origin_is_asked_and_its_commit_is_said(tmp_path, monkeypatch, caplog, gone):
    asked = []

    def download(repository, *, revision, **_):
        asked.append((repository, revision))
        if len(asked) <= gone:
            raise OSError("403 Forbidden")
        return str(tmp_path / "snapshots" / "0123abcd")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    caplog.set_level("INFO")
    if gone == 1:
        assert weights.resolve("sd2-inpainting", tmp_path, offline=False).name == "0123abcd"
        assert "stabilityai/stable-diffusion-2-inpainting is not pinned; this is its commit 0123abcd" in caplog.text
    else:
        with pytest.raises(WeightsError, match=r"(?s)sd2-community/.*OSError.*stabilityai/.*none of these places"):
            weights.resolve("sd2-inpainting", tmp_path, offline=False)
    assert [repository.partition("/")[0] for repository, _ in asked] == ["sd2-community", "stabilityai"]
    assert asked[0][1] == weights.REGISTRY["sd2-inpainting"].sources[0].revision


def test_a_revision_pins_a_hub_repository(tmp_path):
    with pytest.raises(WeightsError, match="someone/model@abc123"):
        weights.resolve("someone/model", tmp_path, offline=True, revision="abc123")


@pytest.mark.parametrize("name", ["sd2-inpainting", "own-folder"])
def test_a_revision_that_would_not_be_honored_is_refused(tmp_path, name):
    (tmp_path / "own-folder").mkdir()
    with pytest.raises(WeightsError, match="a revision pins a Hugging Face repository"):
        weights.resolve(name, tmp_path, offline=True, revision="abc123")


def test_an_archive_is_unpacked_without_following_paths_out_of_the_folder(tmp_path, monkeypatch):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../escaped.onnx", b"1")
        packed.writestr("pack/inner.onnx", b"2")
    entry = weights.Entry("evil", (weights.Source("zip", archive.as_uri()),), "none", False, {})
    monkeypatch.setitem(weights.REGISTRY, "evil", entry)
    folder = weights.resolve("evil", tmp_path / "deep" / "weights", offline=False)
    assert sorted(path.name for path in folder.iterdir()) == ["escaped.onnx", "inner.onnx"]
    assert not list(tmp_path.glob("escaped*"))


def test_every_registered_set_says_its_license_and_where_it_is_from():
    for name, entry in weights.REGISTRY.items():
        assert entry.license, name
        assert entry.sources, name
        assert all(len(sha256) == 64 for sha256 in entry.sha256.values()), name


def test_what_is_never_read_is_not_downloaded(tmp_path, monkeypatch):
    there = [
        "model_index.json",
        *(f"unet/diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin")),
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/pytorch_model.bin",
        "512-inpainting-ema.ckpt",
    ]
    fetched = []

    def download(repository, *, ignore_patterns, **_):
        fetched.extend(filter_repo_objects(there, ignore_patterns=ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert weights.resolve("sd2-inpainting", tmp_path, offline=False) == tmp_path
    assert fetched == ["model_index.json", "unet/diffusion_pytorch_model.safetensors"]
