import os

import pytest
import torch
from equimood import devices


@pytest.fixture(autouse=True)
def torch_as_it_was(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    n_threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(deterministic)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_torch_gets_the_jobs_threads_and_one_at_least():
    devices.use_threads(2)
    assert torch.get_num_threads() == 2
    devices.use_threads(0)
    assert torch.get_num_threads() == 1


def test_a_cpu_computes_in_single_precision_and_a_gpu_in_mixed():
    device = devices.choose()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    for each in {device, torch.device("cpu")}:
        x = torch.ones(4, 4, device=each)
        with devices.autocast(each):
            mixed = (x @ x).dtype == torch.bfloat16
        assert mixed == (each.type == "cuda" and torch.cuda.is_bf16_supported())


def test_a_seed_repeats_torch_also_on_a_gpu():
    drawn = []
    for seed in (3, 3, 4):
        devices.deterministic(seed)
        drawn.append(torch.rand(5, device=devices.choose()).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
