"""What a machine can do is measured in about a second."""

import torch

from dposcope.jobs.estimate.machine import GIB, Machine


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
