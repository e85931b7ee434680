"""One configuration of layers and overrides, and every mistake in it named at once."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.config import loading
from anony_pipeline.errors import ConfigError

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
MINIMAL = {"data": {"sources": [{"name": "a", "layout": "pp4av", "root": "raw/a", "exhaustive": ["face"]}]}}


@pytest.fixture
def base(tmp_path):
    file = tmp_path / "conf" / "base.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(MINIMAL))
    return file


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_file_in_configs_loads_and_says_what_it_is(file):
    config = loading.load([file])
    assert config.name == file.stem
    head = file.read_text().split("\n\nname:")[0]
    assert all(word in head for word in ("Needs:", "Run:", "Takes:"))


def test_the_four_documented_configurations_are_there():
    assert {file.name for file in CONFIGS} >= {"demo.yaml", "smoke.yaml", "planB_colab.yaml", "planB_sdxl.yaml"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_dumped_configuration_loads_to_an_equal_one(file, tmp_path):
    config = loading.load([file])
    (tmp_path / "dump.yaml").write_text(loading.dump(config))
    assert loading.load([tmp_path / "dump.yaml"]) == config


def test_the_keys_of_the_original_plan_keep_their_names():
    values = yaml.safe_load((Path(__file__).parents[2] / "configs/planB_colab.yaml").read_text())
    for key in (
        "precision",
        "model.generator.diffusers.model_id",
        "model.generator.diffusers.enable_xformers",
        "model.finetune.use_lora",
        "model.finetune.learnable_layers",
        "model.finetune.lora_rank",
        "model.discriminator.enabled",
        "loss.l1_weight",
        "loss.perceptual_weight",
        "loss.id_suppress_weight",
        "loss.adv_weight",
        "lr.generator",
        "lr.discriminator",
        "lr.detector",
        "alternating",
        "plate_steps",
        "plate_text_anchor_strength",
        "plate_text_font_ratio_min",
        "plate_text_font_ratio_max",
        "checkpoint.save_every_steps",
        "paths.outputs",
    ):
        part = values
        for name in key.split("."):
            part = part[name]


def test_later_layers_and_then_overrides_win(base, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text("seed: 5\nloss: {adv_weight: 0.2, l1_weight: 3}\n")
    config = loading.load([base, above], ["loss.adv_weight=0.3"])
    assert (config.seed, config.loss.adv_weight, config.loss.l1_weight) == (5, 0.3, 3)
    assert loading.load([above, base]).seed == 5, "a layer that doesn't name a key leaves it as it is"


def test_lists_are_replaced_whole(base, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text("data: {sources: [{name: b, layout: widerface, root: b, exhaustive: [face]}]}")
    assert [source.name for source in loading.load([base, above]).data.sources] == ["b"]


def test_relative_paths_count_from_the_file_that_names_them(base, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    above = elsewhere / "above.yaml"
    above.write_text("paths: {outputs: ../results, cache: /abs/cache, targets: 's3://bucket/targets'}")
    monkeypatch.chdir(tmp_path)
    config = loading.load([base, above], ["paths.private=hidden"])
    assert config.data.sources[0].root == str(base.parent / "raw/a")
    assert config.paths.outputs == str(tmp_path / "results")
    assert config.paths.cache == "/abs/cache"
    assert config.paths.targets == "s3://bucket/targets"
    assert config.paths.private == str(tmp_path / "hidden")


def test_an_unknown_key_is_refused_with_the_nearest_known_one(base):
    with pytest.raises(ConfigError, match=r"loss\.adv_wieght: there is no such key; did you mean adv_weight\?"):
        loading.load([base], ["loss.adv_wieght=1"])


def test_a_key_like_no_other_is_refused_with_the_known_ones(base):
    with pytest.raises(
        ConfigError, match=r"lr\.zzz: there is no such key; known here: generator, discriminator, detector"
    ):
        loading.load([base], ["lr.zzz=1"])


def test_all_mistakes_are_listed_at_once_with_path_and_value(base):
    with pytest.raises(ConfigError) as caught:
        loading.load([base], ["face_steps=9", "training.batch_size=none", "precision=fp64", "sed=1"])
    message = str(caught.value)
    assert "has 4 problems:" in message
    assert "face_steps: Input should be less than or equal to 4 (got 9)" in message
    assert "training.batch_size:" in message
    assert "(got 'none')" in message
    assert "precision: Input should be 'fp32', 'fp16' or 'bf16' (got 'fp64')" in message
    assert "sed: there is no such key; did you mean seed?" in message


def test_a_rule_of_several_keys_is_told_without_the_section_that_breaks_it(base):
    with pytest.raises(ConfigError) as caught:
        loading.load([base], ["training.fsdp=true", "training.torch_compile=true"])
    assert str(caught.value).splitlines()[1:] == [
        "  training: fsdp and torch_compile were never run together: switch one of them off"
    ]


def test_an_unknown_key_of_a_source_is_named_with_its_place(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: {sources: [{name: a, layout: pp4av, roots: x, exhaustive: []}]}")
    with pytest.raises(ConfigError, match=r"data\.sources\.0\.roots: there is no such key; did you mean root\?"):
        loading.load([file])


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"data: this key is required"):
        loading.load([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "no valid YAML"),
        ("- 1\n- 2", "must be a mapping"),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("loss: {adv_weight: 1, adv_weight: 2}", "stands twice"),
    ],
    ids=["broken", "list", "twice", "twice inside"],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        loading.load([tmp_path / "a.yaml"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such configuration file\n.*nowhere\.yaml"):
        loading.load([tmp_path / "nowhere.yaml"])


def test_a_picture_is_no_configuration(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(ConfigError, match="no text file"):
        loading.load([tmp_path / "a.yaml"])


@pytest.mark.parametrize("override", ["loss.adv_weight", "=1", "  =1"])
def test_an_override_without_key_or_value_is_refused(base, override):
    with pytest.raises(ConfigError, match="an override needs a key and a value"):
        loading.load([base], [override])


def test_a_byte_order_mark_does_no_harm(base):
    base.write_bytes(b"\xef\xbb\xbf" + base.read_bytes())
    assert loading.load([base]).data.sources[0].name == "a"


def test_two_sources_of_one_name_are_refused(tmp_path):
    source = MINIMAL["data"]["sources"][0]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"data": {"sources": [source, source]}}))
    with pytest.raises(ConfigError, match="sources need distinct names"):
        loading.load([tmp_path / "a.yaml"])


def test_the_font_ratios_must_be_in_order(base):
    with pytest.raises(ConfigError, match="plate_text_font_ratio_min must not exceed"):
        loading.load([base], ["plate_text_font_ratio_min=0.9"])


def test_a_configuration_cannot_be_changed_afterwards(base):
    config = loading.load([base])
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


@given(seed=st.integers(), weight=st.floats(0, 1e6))
def test_any_number_survives_an_override(seed, weight):
    config = loading.load([CONFIGS[0]], [f"seed={seed}", f"loss.adv_weight={weight!r}"])
    assert (config.seed, config.loss.adv_weight) == (seed, weight)


def test_the_fingerprint_changes_with_its_parts_and_only_with_them(base):
    first, second = loading.load([base]), loading.load([base], ["loss.adv_weight=0.9"])
    assert loading.fingerprint(first.loss) != loading.fingerprint(second.loss)
    assert (
        loading.fingerprint(first.lr, "x") == loading.fingerprint(second.lr, "x") != loading.fingerprint(first.lr, "y")
    )


def test_a_dumped_file_names_no_folder_above_it_and_moves_with_its_tree(tmp_path):
    (tmp_path / "here/conf").mkdir(parents=True)
    layer = tmp_path / "here/conf/a.yaml"
    own = {"judges": {"recognizer": str(tmp_path / "here/models/r50.onnx")}, "paths": {"outputs": "../out"}}
    layer.write_text(yaml.safe_dump(MINIMAL | own))
    folder = tmp_path / "here/out/checkpoints/step_000001"
    folder.mkdir(parents=True)
    config = loading.load([layer])
    (folder / "config.yaml").write_text(loading.dump(config, folder))
    assert str(tmp_path) not in (folder / "config.yaml").read_text()
    # `paths` that no layer names count from the working folder.
    assert loading.load([folder / "config.yaml"]).data == config.data
    (tmp_path / "here").rename(tmp_path / "there")
    moved = loading.load([tmp_path / "there/out/checkpoints/step_000001/config.yaml"])
    assert moved.judges.recognizer == str(tmp_path / "there/models/r50.onnx")
    assert moved.data.sources[0].root == str(tmp_path / "there/conf/raw/a")
    assert moved.paths.outputs == str(tmp_path / "there/out")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_what_is_given_away_loads_and_names_no_place(file, tmp_path):
    config = loading.load([file], ["model.plate_style=/somewhere/style.onnx", "paths.cache=s3://bucket/cache"])
    text = loading.dump_for_others(config)
    assert not [word for word in text.split() if word.startswith(("/", "..", "~")) or "://" in word]
    (tmp_path / "shared.yaml").write_text(text)
    shared = loading.load([tmp_path / "shared.yaml"])
    assert shared.model.plate_style == "style.onnx"
    assert (shared.loss, shared.training, shared.model.generator) == (
        config.loss,
        config.training,
        config.model.generator,
    )


@pytest.mark.parametrize("override", ["model.weights=pretrained", "training.workers=2"])
def test_a_key_that_never_had_an_effect_is_passed_over_aloud(base, override, caplog):
    assert loading.load([base], [override]) == loading.load([base])
    assert f"{override.partition('=')[0]} has no effect" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.generator.small_crops=true", "model.generator.face_size=120"], "multiples of 16"),
        (["training.fsdp=true", "training.torch_compile=true"], "never run together"),
        (["model.finetune.use_lora=false", "model.finetune.style_mix={FR: {plate: 1}}"], "leave one of them out"),
        (["model.lpips={network: vgg}"], "backbone"),
        (["alternating.generator=0", "alternating.detector=0", "loss.adv_weight=0"], "adv_weight is above 0"),
        (["alternating.generator=0", "alternating.detector=0", "alternating.discriminator=0"], "at least one network"),
    ],
)
def test_options_that_exclude_each_other_are_refused(base, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        loading.load([base], overrides)
