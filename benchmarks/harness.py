"""Checkpoints in EleutherAI's harness, on a local task: what edits cost by somebody else's measure.

    pip install lm-eval
    python benchmarks/harness.py base=MODEL edited=runs/tuned/model --neutral wikitext2_test.txt --limit 200

Nothing is downloaded: the task is made from the text file, one document a paragraph, and the harness loads each folder
as any other Hugging Face model. MODEL is a folder or a bundled name, which is first written out as a folder.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import dposcope as ds
from dposcope.errors import DposcopeError

TASK = "local_text"
_YAML = """task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"""
SHORTEST = 200
"""Characters of a paragraph that counts."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--neutral", help="neutral text; default: the built-in")
    parser.add_argument("--limit", type=int, default=200, help="paragraphs")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    # Before the harness is imported: it reads the variables then.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            print(run(options, Path(scratch)))
    except DposcopeError as error:
        print(f"harness: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def run(options: argparse.Namespace, scratch: Path) -> str:
    """Write the task, run every checkpoint, return a Markdown table."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise DposcopeError("the harness is not installed; pip install lm-eval") from error
    paragraphs = [part.strip() for part in ds.load_neutral(options.neutral).split("\n\n")]
    kept = [part for part in paragraphs if len(part) >= SHORTEST][: options.limit]
    (scratch / "text.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in kept))
    (scratch / f"{TASK}.yaml").write_text(_YAML.format(task=TASK, file=scratch / "text.jsonl"))
    lines = [
        "| checkpoint | bits per byte | byte perplexity | word perplexity |",
        "| --- | --- | --- | --- |",
    ]
    for named in options.checkpoints:
        name, _, place = named.rpartition("=")
        folder = Path(place)
        if not (folder / "config.json").is_file():
            folder = scratch / "written" / place.replace("/", "-")
            ds.load(place, dtype=options.dtype, device="cpu").save_pretrained(folder)
        done: dict[str, Any] = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": options.dtype},
            tasks=[TASK],
            task_manager=TaskManager(include_path=str(scratch)),
            batch_size=8,
            device=options.device,
            bootstrap_iters=0,
        )
        found = done["results"][TASK]
        numbers = [found[f"{metric},none"] for metric in ("bits_per_byte", "byte_perplexity", "word_perplexity")]
        lines.append(f"| {name or place} | " + " | ".join(f"{number:.4f}" for number in numbers) + " |")
    return "\n".join([*lines, "", f"{len(kept)} paragraphs, {options.dtype}, lm-eval {lm_eval.__version__}"])


if __name__ == "__main__":
    main()
