"""Files: whole or not at all, of the kind they say, and the same when read back."""

import errno
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from dposcope import artefacts
from dposcope.artefacts import (
    FORMAT_VERSION,
    NoFacts,
    file_digest,
    library_versions,
    load_tensors,
    read_sealed,
    save_tensors,
    sealed,
    tensor_fingerprint,
    text_digest,
    write_atomically,
    write_json,
    write_text,
)
from dposcope.errors import DposcopeError, plural

# Writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "new" / "folder" / "file.txt"
    with write_atomically(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), DposcopeError("ours")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail():
        with write_atomically(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with (
        pytest.raises(DposcopeError, match=r"cannot write .*file\.txt: .*No space left on device; free some space"),
        write_atomically(target),
    ):
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_path_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DposcopeError, match=r"cannot write .*; free the path or choose another --out"):
        write_text(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DposcopeError, match=r"cannot write .*folder"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_are_as_readable_as_any_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "α × β\n")
    assert (tmp_path / "a.txt").read_bytes() == "α × β\n".encode()


# JSON


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": number})
    assert names(tmp_path) == []


# Digests


def test_digests():
    assert text_digest("a") == text_digest("a")
    assert re.fullmatch("[0-9a-f]{16}", text_digest())
    assert len({text_digest(*parts) for parts in ([], [""], ["", ""], ["ab"], ["a", "b"], ["", "ab"], ["a\0b"])}) == 7
    text_digest("\ud800")  # a lone surrogate, as broken input has


def test_file_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_versions_name_what_numbers_depend_on():
    assert {"python", "dposcope", "torch", "transformers", "numpy"} <= set(library_versions())


def test_plural():
    assert [plural(n, "row") for n in (0, 1, 2, 1234567)] == ["0 rows", "1 row", "2 rows", "1,234,567 rows"]


# Tensors

TENSORS = {
    "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(6).view(2, 3).T,  # not contiguous
    "c": torch.tensor([True, False]),
    "d": torch.tensor(1.5, dtype=torch.bfloat16),
    "e": torch.empty(0, 5, dtype=torch.float64),
}


@dataclass(frozen=True)
class Facts:
    count: int
    about: dict[str, list[int | None]]


@pytest.mark.parametrize("name", ["value", "value.safetensors", "value.json"])
def test_tensors_come_back_as_they_were(tmp_path, name):
    save_tensors(tmp_path / name, "Thing", TENSORS, {"count": 3, "about": {"α": [1, None]}})
    assert names(tmp_path) == ["value.json", "value.safetensors"]
    for stem in ("value", "value.safetensors", "value.json"):
        saved = load_tensors(tmp_path / stem, "Thing", Facts)
        assert set(saved.tensors) == set(TENSORS)
        for key, tensor in TENSORS.items():
            assert torch.equal(saved.tensors[key], tensor)
            assert saved.tensors[key].dtype == tensor.dtype
        assert saved.facts == Facts(3, {"α": [1, None]})
    told = json.loads((tmp_path / "value.json").read_text())
    assert (told["format_version"], told["versions"]) == (FORMAT_VERSION, library_versions())


def test_facts_and_tensors_that_are_missing_are_told(tmp_path):
    save_tensors(tmp_path / "v", "Thing", TENSORS, {"count": "3"})
    with pytest.raises(
        DposcopeError,
        match=r"v\.json is damaged or of another version: count should be a whole number; delete it and make",
    ):
        load_tensors(tmp_path / "v", "Thing", Facts)
    with pytest.raises(DposcopeError, match=r"v\.safetensors has no tensor 'mean'; delete it and make it again"):
        _ = load_tensors(tmp_path / "v", "Thing", NoFacts).tensors["mean"]


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    for name in ("edit.v1", "edit.v2"):
        save_tensors(tmp_path / name, "Thing", {"a": torch.tensor([float(name[-1])])}, {})
    assert load_tensors(tmp_path / "edit.v1", "Thing", NoFacts).tensors["a"] == 1
    assert load_tensors(tmp_path / "edit.v2.safetensors", "Thing", NoFacts).tensors["a"] == 2


def test_views_and_gradients_are_stored_alone(tmp_path):
    base = torch.randn(10_000, requires_grad=True)
    save_tensors(tmp_path / "v", "Thing", {"a": base[:2], "b": base[:2]}, {})
    assert (tmp_path / "v.safetensors").stat().st_size < 1000
    tensors = load_tensors(tmp_path / "v", "Thing", NoFacts).tensors
    assert not tensors["a"].requires_grad


def test_tensors_read_back_compute_as_before(tmp_path):
    """Memory-mapped storage lies askew, and sums over it round differently: a resumed run would not be the same."""
    vector, matrix = torch.randn(37), torch.randn(50, 37)
    for length in range(1, 12):  # other headers, other offsets
        save_tensors(tmp_path / "v", "T" * length, {"pad": torch.zeros(length, dtype=torch.bool), "v": vector}, {})
        again = load_tensors(tmp_path / "v", "T" * length, NoFacts).tensors["v"]
        assert again.data_ptr() % 16 == 0
        assert torch.equal(matrix @ again, matrix @ vector)


def test_tensors_read_back_outlive_their_file(tmp_path):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(3)}, {})
    tensors = load_tensors(tmp_path / "v", "Thing", NoFacts).tensors
    save_tensors(tmp_path / "v", "Thing", {"a": torch.zeros(3)}, {})
    assert tensors["a"].tolist() == [1, 1, 1]


def test_another_kind_is_refused(tmp_path):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(1)}, {})
    with pytest.raises(DposcopeError, match="holds 'Thing', not 'Other'; name a file written as Other"):
        load_tensors(tmp_path / "v", "Other", NoFacts)
    (tmp_path / "v.json").write_text("[1]")
    with pytest.raises(
        DposcopeError,
        match=r"v\.json is damaged or of another version: it should be an object; name a file written as Thing",
    ):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


def changed(path, **facts):
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_newer_format_is_refused(tmp_path):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(1)}, {})
    changed(tmp_path / "v.json", format_version=FORMAT_VERSION + 1)
    with pytest.raises(DposcopeError, match=f"has format {FORMAT_VERSION + 1}; .*reads {FORMAT_VERSION}: upgrade"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


@pytest.mark.parametrize("damage", ["cut", "swapped", "one bit"])
def test_damaged_and_torn_pairs_are_noticed(tmp_path, damage):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(5)}, {})
    save_tensors(tmp_path / "w", "Thing", {"a": torch.zeros(5)}, {})
    path = tmp_path / "v.safetensors"
    data = path.read_bytes()
    new = {
        "cut": data[:-3],
        "swapped": (tmp_path / "w.safetensors").read_bytes(),
        "one bit": data[:-1] + bytes([data[-1] ^ 1]),
    }[damage]
    path.write_bytes(new)
    with pytest.raises(DposcopeError, match="do not belong together; delete both and make them again"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


def test_a_file_that_never_was_safetensors_is_told(tmp_path):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(5)}, {})
    (tmp_path / "v.safetensors").write_bytes(b"something else")
    about = read_sealed(tmp_path / "v.json", dict[str, Any])
    write_json(tmp_path / "v.json", sealed(about | {"tensors_sha256": file_digest(tmp_path / "v.safetensors")}))
    with pytest.raises(DposcopeError, match=r"v\.safetensors is damaged .*; delete it and make it again"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


def test_a_sealed_value_comes_back_and_a_changed_one_does_not(tmp_path):
    value = {"numbers": [0.1, 1e-300, 3], 7: {"deep": None, "é": "ß😀"}, "b": True}
    write_json(tmp_path / "f", sealed(value))
    assert read_sealed(tmp_path / "f", dict[str, Any]) == json.loads(json.dumps(value))
    written = json.loads((tmp_path / "f").read_text())
    for other in (
        {**written, "b": False},
        {**written, "more": 1},
        {k: v for k, v in written.items() if k != "7"},
        value,
    ):
        write_json(tmp_path / "f", other)
        with pytest.raises(DposcopeError, match="f is not as it was written; delete it and run again"):
            read_sealed(tmp_path / "f", dict[str, Any])


def test_a_missing_half_is_told(tmp_path):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(5)}, {})
    (tmp_path / "v.safetensors").unlink()
    with pytest.raises(DposcopeError, match=r"cannot read .*v\.safetensors: No such file"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)
    (tmp_path / "v.json").unlink()
    with pytest.raises(DposcopeError, match=r"cannot read .*v\.json: No such file"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


def test_a_crash_between_the_two_files_is_noticed(tmp_path, monkeypatch):
    save_tensors(tmp_path / "v", "Thing", {"a": torch.ones(5)}, {})

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(artefacts, "write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        save_tensors(tmp_path / "v", "Thing", {"a": torch.zeros(5)}, {})
    with pytest.raises(DposcopeError, match="do not belong together"):
        load_tensors(tmp_path / "v", "Thing", NoFacts)


# Fingerprints


def test_a_fingerprint_depends_on_names_shapes_dtypes_and_values():
    base = torch.arange(6.0)
    prints = [
        tensor_fingerprint(named)
        for named in (
            {"a": base},
            {"b": base},
            {"a": base.view(2, 3)},
            {"a": base.view(3, 2)},
            {"a": base.double()},
            {"a": base.view(torch.int32)},
            {"a": base + 0.5},
            {"a": base, "b": base},
            {},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert tensor_fingerprint({"a": base, "b": base + 1}) == tensor_fingerprint({"b": base + 1, "a": base.clone()})


@given(st.integers(0, 4999), st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8]))
def test_one_changed_value_anywhere_changes_the_fingerprint(place, dtype):
    values = (torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 10).to(dtype)
    other = values.clone()
    other[place] = -other[place] + 1
    assert tensor_fingerprint({"a": other}) != tensor_fingerprint({"a": values})


def test_the_smallest_change_changes_it():
    values = torch.ones(5000)
    other = values.clone()
    other.view(torch.int32)[3333] += 1
    assert tensor_fingerprint({"a": other}) != tensor_fingerprint({"a": values})
    zero, minus = torch.zeros(3), -torch.zeros(3)
    assert tensor_fingerprint({"a": zero}) != tensor_fingerprint({"a": minus})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
@pytest.mark.parametrize("at_once", [1, 7, 1 << 17])
def test_a_fingerprint_is_the_sum_that_it_is_said_to_be_however_many_numbers_are_read_at_once(
    monkeypatch, dtype, at_once
):
    """Number by number, with Python's own integers; folders of runs hold these digests."""
    monkeypatch.setattr(artefacts, "_IN_CACHE", at_once)
    stream = torch.Generator().manual_seed(3)
    named = {"b": (torch.randn(5, 41, generator=stream) * 100).to(dtype), "a": torch.ones(3).to(dtype)}
    told = ""
    for name in ("a", "b"):
        kind = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int32}[named[name].element_size()]
        bits = np.frombuffer(named[name].view(torch.uint8).numpy().tobytes(), kind).tolist()
        total = sum(number * (place * 2 * 0x1E3779B97F4A7C15 + 1) for place, number in enumerate(bits)) % 2**64
        told += f"{name}|{tuple(named[name].shape)}|{dtype}|{total}|"
    assert tensor_fingerprint(named) == hashlib.sha256(told.encode()).hexdigest()[:32]


def test_two_values_that_change_places_change_the_fingerprint():
    """Neurons that are reordered, gains that are shuffled: the same numbers elsewhere."""
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(2))
    other = values.clone()
    other[[12345, 33333]] = values[[33333, 12345]]
    assert tensor_fingerprint({"a": other}) != tensor_fingerprint({"a": values})


def test_layout_in_memory_does_not_matter():
    values = torch.randn(40, 50)
    assert tensor_fingerprint({"a": values}) == tensor_fingerprint({"a": values.T.contiguous().T})
    assert tensor_fingerprint({"a": torch.tensor(1.0)}) == tensor_fingerprint({"a": torch.tensor(1.0)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_a_turned_direction_has_another_fingerprint(dtype):
    """Any number of flipped signs, even ones too."""
    numbers = torch.arange(1, 17).to(dtype)
    one = tensor_fingerprint({"W": numbers})
    for flipped in (1, 2, 4, 16):
        turned = torch.cat([-numbers[:flipped], numbers[flipped:]])
        assert tensor_fingerprint({"W": turned}) != one
