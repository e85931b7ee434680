import itertools
import shutil
import stat
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from easyocr.config import recognition_models
from easyocr.model.vgg_model import Model as EnglishModel
from easyocr.utils import CTCLabelConverter
from fast_plate_ocr import LicensePlateRecognizer

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import reader, weights
from anony_pipeline.ops import images


def talkative(network, seed=0):
    """Random weights that give long and varied readings."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    network.train()
    for _ in range(4):
        network(torch.rand(4, 1, 64, 192) * 2 - 1)
    network.classify.weight.data *= 8
    weights.round_to_half(network)
    return network.eval()


@pytest.fixture(scope="module")
def plates():
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        plate = np.full((40 + 10 * number, 130 + 20 * number, 3), 220, np.uint8)
        text = "".join(rng.choice(list(reader.ALPHABET), 6))
        cv2.putText(plate, text, (5, plate.shape[0] - 10), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (10, 20, 60), 2)
        made.append(plate)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    weights.save_half(path / "reader.safetensors", talkative(reader.PlateNet()))
    weights.save_half(path / "held_out_reader.safetensors", reader.HeldOutPlateNet())
    return path


@pytest.fixture
def shipped(folder, monkeypatch):
    monkeypatch.setattr(weights, "shipped", lambda name: folder / name)


def test_easyocr_serves_the_custom_network_and_reads_what_its_twin_reads(shipped, plates, tmp_path):
    judge = reader.load_reader("shipped", cache=tmp_path / "cache")
    gray = [cv2.cvtColor(images.resize(plate, reader.INPUT_HW), cv2.COLOR_RGB2GRAY) for plate in plates]
    pixels = images.to_tensor([np.repeat(one[..., None], 3, axis=2) for one in gray])
    with torch.no_grad():
        expected = reader.decode_ctc(reader.load_reader_twin()(pixels))
    readings = judge.read(plates)
    assert judge.judge.library.startswith("easyocr ")
    assert [reading.text for reading in readings] == [reading.text for reading in expected]
    assert all(reading.text for reading in readings)
    assert len({reading.text for reading in readings}) > 1


def test_easyocrs_weights_are_written_for_their_owner_alone(shipped, tmp_path):
    cache = tmp_path / "cache"
    reader.load_reader("shipped", cache=cache)
    (file,) = cache.rglob("*.pth")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_pth_file_that_was_planted_in_the_cache_is_overwritten_before_easyocr_sees_it(shipped, tmp_path):
    cache = tmp_path / "cache"
    reader.load_reader("shipped", cache=cache)
    (file,) = cache.rglob("*.pth")
    good = file.read_bytes()
    file.write_bytes(b"planted")
    reader.load_reader("shipped", cache=cache)
    assert len(file.read_bytes()) == len(good)


def test_the_networks_yaml_agrees_with_the_code():
    params = yaml.safe_load((reader.NETWORK_FOLDER / f"{reader.NETWORK}.yaml").read_text())
    default = reader.PlateNet()
    made = reader.PlateNet(*(params["network_params"][k] for k in ("input_channel", "output_channel", "hidden_size")))
    assert params["character_list"] == reader.ALPHABET
    assert params["imgH"] == reader.INPUT_HW[0]
    assert [p.shape for p in made.parameters()] == [p.shape for p in default.parameters()]


def test_decoding_agrees_with_easyocrs_own_decoder():
    torch.manual_seed(3)
    logits = torch.randn(48, 7, 37) * 3
    converter = CTCLabelConverter(reader.ALPHABET, {}, {})
    path = logits.argmax(2).T.reshape(-1).numpy()
    expected = converter.decode_greedy(path, torch.full((7,), 48, dtype=torch.int32))
    assert [reading.text for reading in reader.decode_ctc(logits.log_softmax(2))] == expected


def test_the_twin_gives_log_probabilities_blank_first_and_gradients(shipped):
    twin = reader.load_reader_twin()
    pixels = (torch.rand(2, 3, 64, 192) * 2 - 1).requires_grad_()
    output = twin(pixels)
    assert output.shape == (96, 2, 37)
    torch.testing.assert_close(output.exp().sum(2), torch.ones(96, 2))
    targets, lengths = reader.encode(["AB12", "9Z"])
    loss = torch.nn.functional.ctc_loss(output, targets, torch.full((2,), 96), lengths)
    assert torch.autograd.grad(loss, pixels)[0].abs().max() > 0


def test_a_twins_recurrent_layers_train_because_cudnn_has_no_gradient_otherwise():
    twin = reader.load_reader_twin()
    recurrent = [layer for layer in twin.modules() if isinstance(layer, torch.nn.RNNBase)]
    assert recurrent
    assert all(layer.training and not layer.dropout for layer in recurrent)
    assert not any(layer.training for layer in twin.modules() if layer not in recurrent)
    pixels = torch.rand(2, 3, 64, 192) * 2 - 1
    assert torch.equal(twin(pixels), twin.eval()(pixels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_twin_has_a_gradient_on_a_gpu():
    pixels = torch.rand(2, 3, 64, 192, device="cuda").requires_grad_()
    assert torch.autograd.grad(reader.load_reader_twin(device="cuda")(pixels).sum(), pixels)[0].isfinite().all()


def test_the_twins_gray_is_opencvs():
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 192, 3), dtype=np.uint8)
    ours = (images.to_tensor(image) * torch.tensor(reader.LUMA).view(1, 3, 1, 1)).sum(1).numpy()
    theirs = cv2.cvtColor(image[0], cv2.COLOR_RGB2GRAY) / 127.5 - 1
    assert np.abs(ours - theirs).max() < 1.5 / 127.5


def test_the_held_out_reader_reads_in_batches_as_alone(shipped, plates, tmp_path):
    judge = reader.load_reader("shipped", cache=tmp_path, held_out=True)
    assert judge.read([]) == []
    assert judge.read(plates)[2].text == judge.read(plates[2:3])[0].text


def test_both_readers_stay_small():
    for network in (reader.PlateNet(), reader.HeldOutPlateNet()):
        assert sum(p.numel() for p in network.parameters()) <= 900_000


def test_each_place_of_the_held_out_reader_sees_all_others():
    torch.manual_seed(0)
    context = reader._Context(8, heads=2)
    maps = torch.zeros(1, 8, 2, 3, requires_grad=True)
    context(maps)[0, :, 0, 0].sum().backward()
    assert (maps.grad[0].abs().sum(0) > 0).all()
    assert context(maps).shape == maps.shape


def test_a_missing_english_model_offline_is_an_error_that_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"not on this machine[\s\S]*english_g2"):
        reader.load_reader("easyocr", cache=tmp_path, weights_dir=tmp_path)


def test_an_english_model_that_holds_code_is_refused_before_easyocr_unpickles_it(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "english_g2").mkdir()
    torch.save({"x": Bomb()}, tmp_path / "english_g2" / "english_g2.pth")
    with pytest.raises(WeightsError, match="something else than tensors"):
        reader.load_reader("easyocr", cache=tmp_path, weights_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_english_models_twin_merges_both_cases_and_gives_gradients(tmp_path):
    characters = recognition_models["gen2"]["english_g2"]["characters"]
    torch.manual_seed(0)
    model = EnglishModel(1, 256, 256, 1 + len(characters))
    (tmp_path / "english_g2").mkdir()
    torch.save({f"module.{n}": v for n, v in model.state_dict().items()}, tmp_path / "english_g2" / "english_g2.pth")
    twin = reader.load_reader_twin("easyocr", weights_dir=tmp_path)
    pixels = (torch.rand(1, 3, 64, 192) * 2 - 1).requires_grad_()
    output = twin(pixels)
    assert output.shape[1:] == (1, 37)
    torch.testing.assert_close(output.exp().sum(2), torch.ones(output.shape[:2]), atol=1e-4, rtol=0)
    assert torch.autograd.grad(output[:, :, 5].sum(), pixels)[0].abs().max() > 0
    gray = (pixels * twin.luma).sum(1, keepdim=True)
    shares = model.eval()(gray, None).softmax(2)[0]
    both = shares[:, 1 + characters.index("A")] + shares[:, 1 + characters.index("a")]
    torch.testing.assert_close(output[:, 0, 1 + reader.ALPHABET.index("A")].exp(), both)


def test_a_cache_folder_of_somebody_else_is_refused(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "os", SimpleNamespace(getuid=lambda: 12345))
    with pytest.raises(WeightsError, match="belongs to somebody else"):
        reader.load_reader("shipped", cache=tmp_path / "cache")


def test_candidates_are_the_likeliest_texts_by_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(20):
        shares = rng.dirichlet(np.ones(4), size=4)
        everything = {}
        for path in itertools.product(range(4), repeat=4):
            text = "".join("ABC"[c - 1] for c in path if c)
            everything[text] = max(everything.get(text, 0), np.prod(shares[range(4), path]))
        expected = sorted(everything, key=everything.get, reverse=True)[:5]
        assert reader.likeliest_texts(shares, ["", "A", "B", "C"], 5) == expected


def test_the_held_out_reader_tells_its_candidates_the_best_first(shipped, plates, tmp_path):
    for reading in reader.load_reader("shipped", cache=tmp_path, held_out=True).read(plates):
        assert len(set(reading.candidates)) == reader.CANDIDATES
        assert reading.candidates[0] == reading.text


@pytest.fixture(scope="module", params=["grayscale", "rgb"])
def fast_plate(request, tmp_path_factory):
    """A random model with fast-plate-ocr's interface: uint8 pictures in, probabilities of each place out."""
    folder = tmp_path_factory.mktemp("fast") / request.param
    folder.mkdir()
    channels, alphabet = (1 if request.param == "grayscale" else 3), reader.ALPHABET + "_"

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = torch.nn.Linear(channels * 16 * 32, 7 * len(alphabet))

        def forward(self, pixels):
            small = torch.nn.functional.avg_pool2d(pixels.float().permute(0, 3, 1, 2) / 255, 4)
            return torch.softmax(self.dense(small.flatten(1)).view(-1, 7, len(alphabet)) * 4, dim=2)

    torch.manual_seed(0)
    sample = torch.zeros(2, 64, 128, channels, dtype=torch.uint8)
    axes = {"input": {0: "batch"}, "plate": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["plate"]}
    torch.onnx.export(Model(), (sample,), str(folder / "tiny.onnx"), dynamic_axes=axes, dynamo=False, **names)
    settings = {"max_plate_slots": 7, "alphabet": alphabet, "pad_char": "_", "img_height": 64, "img_width": 128}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings | {"image_color_mode": request.param}))
    return folder


def test_a_model_of_fast_plate_ocr_reads_what_the_library_reads(fast_plate, plates, tmp_path):
    judge = reader.load_reader(str(fast_plate), cache=tmp_path)
    by_library = LicensePlateRecognizer(
        onnx_model_path=fast_plate / "tiny.onnx", plate_config_path=fast_plate / "tiny.yaml", device="cpu"
    )
    shown = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in plates] if "gray" in fast_plate.name else plates
    expected = [prediction.plate.replace("_", "") for prediction in by_library.run(shown)]
    found = judge.read(plates)
    assert [reading.text for reading in found] == expected
    assert len(set(expected)) > 1
    assert all(reading.candidates[0] == reading.text for reading in found)
    assert judge.read([]) == []
    assert (judge.judge.name, judge.judge.library.split()[0], judge.judge.weights) == (
        "tiny",
        "fast-plate-ocr",
        "tiny.onnx",
    )


def spoil_settings(folder):
    (folder / "tiny.yaml").unlink()
    return "no \\*.yaml"


def spoil_alphabet(folder):
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text().replace("ABC", "AB"))
    return "no model of fast-plate-ocr"


def spoil_model(folder):
    (folder / "tiny.onnx").write_bytes(b"not a model")
    return "no model of fast-plate-ocr"


@pytest.mark.parametrize("spoil", [spoil_settings, spoil_alphabet, spoil_model])
def test_files_that_are_no_model_of_fast_plate_ocr_are_refused(fast_plate, tmp_path, spoil):
    folder = shutil.copytree(fast_plate, tmp_path / "model")
    with pytest.raises(WeightsError, match=spoil(folder)):
        reader.load_reader(str(folder), cache=tmp_path)
