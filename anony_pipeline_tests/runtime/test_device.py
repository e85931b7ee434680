"""The device that is asked for, or a reason."""

import pytest
import torch

from anony_pipeline.errors import ConfigError
from anony_pipeline.runtime import device

CPU = torch.device("cpu")


def test_auto_takes_what_is_there():
    assert device.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_there_is_none(name):
    with pytest.raises(ConfigError, match=r"no such CUDA device is here(.|\n)*set device: auto"):
        device.choose_device(name)


def test_a_gpu_is_refused_that_is_one_too_many(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"got:\s+cuda:2\n\s+allowed: auto, cpu, cuda, cuda:0, cuda:1"):
        device.choose_device("cuda:2")


def test_another_devices_name_is_refused():
    with pytest.raises(ConfigError, match=r"no such device(.|\n)*tpu"):
        device.choose_device("tpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_cpu_computes_in(name, dtype):
    assert device.choose_dtype(name, CPU) == dtype


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU(.|\n)*set precision: fp32"):
        device.choose_dtype("fp16", CPU)


def test_bf16_is_refused_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ConfigError, match=r"no bf16(.|\n)*Tesla T4(.|\n)*set precision: fp16"):
        device.choose_dtype("bf16", torch.device("cuda"))


def test_noise_is_a_function_of_its_seed():
    first, second = (torch.randn(3, generator=device.torch_generator(7)) for _ in range(2))
    torch.testing.assert_close(first, second)
