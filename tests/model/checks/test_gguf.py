"""The header of a GGUF file: read as the library reads it, and refused where it promises more than the file holds."""

import struct

import pytest
from gguf import GGUFReader

from dposcope.errors import DposcopeError
from dposcope.model.checks.gguf import check_gguf, read_header
from dposcope.model.load import load
from helpers.families import bits
from helpers.gguf_models import write_llama


def test_it_is_what_the_library_reads(llama, tmp_path):
    path = write_llama(llama, tmp_path / "a.gguf")
    header, reader = check_gguf(path), GGUFReader(path)
    assert header.tensors == tuple(tensor.name for tensor in reader.tensors)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    texts = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}
    assert {name: value for name, value in theirs.items() if name not in texts} == header.fields
    assert texts <= set(theirs)


def test_a_whole_file_is_loaded_to_the_bit_and_one_that_lacks_a_tensor_is_refused(llama, tmp_path):
    """transformers would fill it with random numbers, other ones each time."""
    lm = load(write_llama(llama, tmp_path / "a.gguf"), device="cpu", dtype="float32")
    read, true = bits(lm.model), bits(llama.model)
    assert read.keys() == true.keys()
    # The format has the rows of these in another order.
    assert {name for name in true if read[name] != true[name]} <= {
        name for name in true if ".q_" in name or ".k_" in name
    }
    lacking = write_llama(llama, tmp_path / "b.gguf", leave_out=["blk.1.ffn_down"])
    with pytest.raises(DposcopeError, match=r"b\.gguf has no model\.layers\.1\.mlp\.down_proj\.weight.*; download it"):
        load(lacking, device="cpu")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"block_count": 4}, "says 4 blocks, but holds 3; download it again"),
        ({"block_count": 10**6}, "has num_hidden_layers '1000000', and a model has 1 to 1,000"),
        ({"block_count": 0}, "has num_hidden_layers '0'"),
        ({"embedding_length": 0}, "has hidden_size '0'"),
        ({"vocab_size": 10**12}, "has vocab_size '1000000000000'"),
        ({"head_count": 0}, "has num_attention_heads '0'"),
        ({"head_count_kv": 10**9}, "has num_key_value_heads '1000000000'"),
        ({"context_length": 2**63}, "has max_position_embeddings"),
    ],
)
def test_sizes_that_it_cannot_have(llama, tmp_path, sizes, told):
    with pytest.raises(DposcopeError, match=told):
        check_gguf(write_llama(llama, tmp_path / "a.gguf", **sizes))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def whole(*fields: bytes, tensors: int = 0, version: int = 3, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(fields) if count is None else count) + b"".join(fields)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"GGUF", "buffer"),
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (whole(version=1), "version is 1"),
        (whole(count=2**62), "ends before its header"),
        (whole(tensors=2**62), "ends before its header"),
        (whole(struct.pack("<Q", 2**63) + b"x"), "ends before its header"),
        (whole(text(b"a") + struct.pack("<I", 99) + bytes(8)), "type 99"),
        (whole(text(b"a") + struct.pack("<IIQ", 9, 0, 2**60)), "ends before its header"),
        (whole(text(b"a") + struct.pack("<IIQ", 9, 8, 2**60)), "ends before its header"),
        (whole(text(b"a") + struct.pack("<IIQ", 9, 9, 2**60)), "lists of lists"),
        (whole(text(b"a") + struct.pack("<IIQQ", 9, 8, 1, 2**60)), "ends before its header"),
        (whole(text(b"a") + struct.pack("<IQ", 8, 2**60)), "ends before its header"),
        (whole(tensors=1)[:24] + text(b"t") + struct.pack("<I", 2**32 - 1) + bytes(40), "ends before its header"),
    ],
)
def test_counts_that_reach_beyond_the_end(tmp_path, content, told):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(DposcopeError, match=rf"cannot read .*a\.gguf as GGUF: .*{told}.*; is the file whole\?"):
        read_header(tmp_path / "a.gguf")


def test_every_kind_of_value(tmp_path):
    fields = [
        text(b"small") + struct.pack("<Ib", 1, -3),
        text(b"wide") + struct.pack("<Iq", 11, -(2**40)),
        text(b"real") + struct.pack("<Id", 12, 0.1),
        text(b"yes") + struct.pack("<I?", 7, True),
        text(b"word") + struct.pack("<I", 8) + text("é".encode()),
        text(b"list") + struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3),
        text(b"long") + struct.pack("<IIQ", 9, 0, 5000) + bytes(5000),
        text(b"texts") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b""),
    ]
    (tmp_path / "a.gguf").write_bytes(whole(*fields))
    assert read_header(tmp_path / "a.gguf").fields == {
        "small": -3,
        "wide": -(2**40),
        "real": 0.1,
        "yes": True,
        "word": "é",
        "list": [1, 2, 3],
    }


def test_the_other_order_of_bytes(tmp_path):
    content = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", 1) + b"a" + struct.pack(">II", 4, 7)
    (tmp_path / "a.gguf").write_bytes(content)
    assert read_header(tmp_path / "a.gguf").fields == {"a": 7}
