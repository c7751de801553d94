"""The processes of one job: which the environment names, what is refused, each one's GPU."""

import re

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.processes.group import Processes
from helpers.jobs import command

MASTER = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
BAD = {
    "FSDP": ({"ACCELERATE_USE_FSDP": "true"}, "auto", r"\(FSDP\) is not supported, as each process"),
    "DeepSpeed": ({"ACCELERATE_USE_DEEPSPEED": "true"}, "auto", r"\(DeepSpeed\) is not supported"),
    "machines": ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", **MASTER}, "auto", "work together on one machine"),
    "one GPU": ({"WORLD_SIZE": "2", **MASTER}, "cuda:0", "--device cuda:0 is one device for 2 processes"),
    "no launcher": ({"WORLD_SIZE": "2"}, "auto", "RANK and MASTER_ADDR and MASTER_PORT are not set: no launcher"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_done_in_several_is_told_in_one_line(tmp_path, capsys, monkeypatch, what):
    environment, device, words = BAD[what]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = command(capsys, "dpo", "m", "--pairs", "p.jsonl", "--out", tmp_path / "out", "--device", device)
    assert (told.code, told.out) == (2, "")
    assert len(told.err.splitlines()) == 1
    assert re.search(words, told.err)
    assert not (tmp_path / "out").exists()


def test_each_process_has_the_gpu_of_its_number(monkeypatch):
    from dposcope.model.load import device_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("auto") == device_of("cuda") == torch.device("cuda:3")
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DposcopeError, match="need a GPU each, and here are 1"):
        Processes(0, 2).join("auto")


def test_alone_there_is_nobody_to_wait_for():
    alone = Processes()
    assert (alone.alone, alone.is_main, alone.broadcast(3), alone.gather(4), alone.on_main(lambda: 5)) == (
        True,
        True,
        3,
        [4],
        5,
    )
    with pytest.raises(KeyError), alone.failing_together():
        raise KeyError
