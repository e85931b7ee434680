import dataclasses
import json

import pytest
import torch

from anony_pipeline.errors import ConfigError
from anony_pipeline.fitting import base_models
from anony_pipeline.models import weights
from anony_pipeline.models.recognizer import ArcFaceNet
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Kind


@pytest.fixture
def quick(monkeypatch):
    """Makers that write a small file at once, and count their calls."""
    calls = []

    def make(shop, name):
        calls.append(name)
        for file in base_models.FILES[name]:
            (shop.output / file).write_text(name)
        return {"architecture": name, "held_out": {"score": 1.0}}

    monkeypatch.setattr(base_models, "MAKERS", dict.fromkeys(base_models.MAKERS, make))
    return calls


def test_the_manifest_lists_each_file_with_its_sum_and_each_model_with_its_history(quick, tmp_path):
    manifest = base_models.make_all(tmp_path / "weights", device="cpu")
    assert manifest["format"] == weights.FORMAT
    assert set(manifest["files"]) == {file for files in base_models.FILES.values() for file in files}
    assert set(manifest["models"]["reader"]) >= {"architecture", "held_out", "hardware", "seconds", "code", "seed"}
    assert manifests.read(tmp_path / "weights") == manifest


def test_what_is_made_is_not_made_again_unless_the_scale_changes(quick, tmp_path):
    base_models.make_all(tmp_path / "weights", device="cpu", only=["reader"])
    base_models.make_all(tmp_path / "weights", device="cpu", only=["reader", "features"])
    assert quick == ["reader", "features"]
    base_models.make_all(tmp_path / "weights", device="cpu", only=["reader"], scale=0.5)
    assert quick == ["reader", "features", "reader"]


def test_models_that_were_made_elsewhere_stay_in_the_manifest(quick, tmp_path):
    output = tmp_path / "weights"
    base_models.make_all(output, device="cpu", only=["reader"])
    (tmp_path / "weights.work" / "reader.json").unlink()
    manifest = base_models.make_all(output, device="cpu", only=["features"])
    assert set(manifest["models"]) == {"reader", "features"}


def test_an_unknown_model_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no such base models[\s\S]*got:\s+readr[\s\S]*held_out_reader"):
        base_models.make_all(tmp_path / "weights", only=["readr"])


def test_a_former_generator_is_copied_once_with_its_history_and_stays_what_it_was(tmp_path):
    former, begun = tmp_path / "weights", tmp_path / "weights.work" / "generator" / "begun"
    former.mkdir()
    file = former / base_models.generator.SHIPPED_UNET
    file.write_bytes(b"first")
    manifests.write(former, {"format": weights.FORMAT, "models": {"generator": {"teacher_steps": 7}}})
    assert base_models._taken_over(former, begun) == {"teacher_steps": 7}
    # The output may lie where the former one does: a run that was broken after it was written goes on all the same.
    file.write_bytes(b"second")
    manifests.write(former, {"format": weights.FORMAT, "models": {"generator": {"teacher_steps": 8}}})
    assert base_models._taken_over(former, begun) == {"teacher_steps": 7}
    assert (begun / file.name).read_bytes() == b"first"


def test_what_goes_on_from_a_former_generator_ends_halfway(tmp_path):
    files = [tmp_path / "former.safetensors", tmp_path / "became.safetensors"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        weights.save_half(file, base_models.build_demo_unet())
    former, became = (weights.load_safetensors(file) for file in files)
    base_models.average(*files)
    now = weights.load_safetensors(files[1])
    assert now.keys() == became.keys()
    for name, tensor in now.items():
        halfway = (former[name].double() + became[name].double()) / 2
        torch.testing.assert_close(tensor.double(), halfway, rtol=2**-11, atol=2**-24)
    assert any(not torch.equal(former[name], became[name]) for name in now)


def test_a_generator_that_goes_on_begins_with_the_mean_of_the_former_and_of_further_plates(tmp_path):
    shipped, work = weights.SHIPPED / base_models.generator.SHIPPED_UNET, tmp_path / "generator"
    amounts = dataclasses.replace(base_models.Amounts().scaled(1e-6), further_steps=4, generator_batch=2)
    shop = base_models.Workshop(tmp_path, tmp_path, amounts, torch.device("cpu"), former=weights.SHIPPED)
    facts = base_models._begin_generator(shop, ArcFaceNet(), work, dict.fromkeys(Kind, 4))
    assert facts["steps"] == 4
    assert facts["share_of_the_former"] == base_models.SHARE_OF_THE_FORMER
    assert facts["began_with_sha256"] == manifests.sha256_of(shipped)
    assert facts["begun"] == json.loads((weights.SHIPPED / manifests.NAME).read_text())["models"]["generator"]
    trained = torch.load(work / base_models.generator.STATE, weights_only=True)["ema"]
    before, now = (weights.load_safetensors(file) for file in (shipped, work / "begun" / shipped.name))
    for name, tensor in now.items():
        halfway = (before[name].float() + trained[name].half().float()) / 2
        torch.testing.assert_close(tensor.float(), halfway, rtol=2**-11, atol=2**-24)
    assert any(not torch.equal(before[name], now[name]) for name in now)


def test_a_former_folder_without_a_generator_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no generator to go on from[\s\S]*former[\s\S]*generator_unet"):
        base_models._taken_over(tmp_path, tmp_path / "begun")


@pytest.mark.slow
def test_all_judges_are_made_from_nothing_at_the_smallest_scale(tmp_path):
    torch.set_num_threads(1)
    names = [name for name in base_models.MAKERS if name != "generator"]
    manifest = base_models.make_all(tmp_path / "weights", scale=1e-6, device="cpu", only=names)
    assert json.dumps(manifest)
    assert sum(entry["bytes"] for entry in manifest["files"].values()) < 14_500_000


def test_scale_one_is_what_the_amounts_say():
    assert base_models.Amounts().scaled(1) == base_models.Amounts()


def test_a_hundredth_of_the_data_takes_a_tenth_of_the_steps():
    whole = base_models.Amounts()
    small = whole.scaled(0.01)
    data = ("people", "plates", "scenes", "generator_faces", "generator_plates")
    assert [getattr(small, name) * 100 for name in data] == [getattr(whole, name) for name in data]
    steps = [name for name in vars(whole) if name.endswith("_steps")]
    assert len(steps) == 10
    assert [getattr(small, name) * 10 for name in steps] == [getattr(whole, name) for name in steps]


def test_a_tenth_of_the_data_is_taught_all_faces():
    whole = base_models.Amounts()
    assert whole.scaled(0.1).taught_faces == whole.taught_faces > whole.scaled(0.05).taught_faces
