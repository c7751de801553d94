"""What a machine can do is measured in about a second."""

from types import SimpleNamespace

import torch

from dposcope.jobs.estimate.machine import GIB, Machine
from helpers.fake_devices import FakeDevices


def test_this_machine_can_be_measured():
    machine = Machine.measured()
    assert machine.operations > 1e9
    assert 1e8 < machine.bandwidth < 1e13
    assert machine.memory > GIB
    assert machine.processor_bytes in (2, 4)


def test_products_are_of_the_precision_that_is_asked_for():
    assert Machine.measured("cpu", dtype=torch.float32).processor_bytes == 4


def test_a_system_that_does_not_tell_its_memory_never_lacks_it(monkeypatch):
    monkeypatch.delattr("dposcope.jobs.estimate.machine.os.sysconf")
    assert Machine.measured("cpu").memory > 2**60


def test_memories_of_gpus_add_up_where_one_model_is_spread(monkeypatch):
    """GPUs are pretended, and measured on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    monkeypatch.setattr("dposcope.jobs.estimate.machine._least_seconds", lambda run: run() and 0.5)
    with FakeDevices():
        alone = Machine.measured(dtype=torch.float32)
        together = Machine.measured(dtype=torch.float32, device_map="auto")
    assert (alone.memory, alone.name) == (80 * 10**9, "H100")
    assert (together.memory, together.name, together.gpu) == (240 * 10**9, "3 × H100", True)
    assert (together.operations, together.bandwidth) == (alone.operations, alone.bandwidth)
