"""The small files of a checkpoint: told before transformers fails on them."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.checks.config import check_files
from dposcope.model.load import load
from dposcope.model.size import size_of
from dposcope.shipping.skeleton import Skeleton


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "fault"), [("[]", "holds a list"), ("{", "is not JSON"), ("", "is empty")])
def test_each_is_named_with_its_fault(llama, tmp_path, name, content, fault):
    llama.save_pretrained(tmp_path)
    check_files(tmp_path)
    (tmp_path / name).write_text(content)
    sizes = [lambda folder: size_of(str(folder))] if name == "config.json" else []  # they follow from the config alone
    for read in (load, Skeleton.of, *sizes):
        with pytest.raises(DposcopeError, match=rf"{name} {fault}.*; download the checkpoint again, or save it again"):
            read(tmp_path)


def test_a_quantisation_that_is_no_object_is_told(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace("{", '{"quantization_config": [1],', 1)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(DposcopeError, match=r"its config\.json is that of no known model .*; check the folder"):
        Skeleton.of(tmp_path)
