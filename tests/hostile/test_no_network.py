"""Where only local things are named, nothing leaves the machine: no socket opens, no other program starts."""

from pathlib import Path

import pytest

from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from helpers.adapters import lora, write_adapter
from helpers.every_command import ORDERS, make_ground
from helpers.families import random_gains, tiny
from helpers.forked_server import FORBIDDEN
from helpers.gguf_files import wide, write
from helpers.jobs import crashes, write_csv, write_jsonl

pytestmark = pytest.mark.usefixtures("lighter")

ONLINE = (("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "0"))
"""As on a user's machine: no variable keeps the libraries from the hub."""

CONCEPT = """
name = "water"
adjective = "wet"
comments = "wet.csv"
prompts = "prompts.txt"
scorer = "words:words.txt"
"""
OTHERS = {
    "edit a concept": "edit {model} --concept own.toml --neutral {neutral} --passages {passages} --alpha 0.2 "
    "--ablate 0.5 --max-windows 2 --also-score none --device cpu --out concept",
    "evaluate a tuned model": "evaluate {model} {data} --condition tuned=model:{tuned} --out tuned-scores",
    "explain an adapter": "explain {model} adapter {data} --neurons-only --toxic-neurons 4 --out explained",
    "dpo of a LoRA adapter": "dpo {model} --pairs {pairs} --learn-text {neutral} --train lora --max-examples 8 "
    "--validation 4 --window-tokens 12 --window-pool 9 --batch-size 4 --device cpu --out lora",
    "fold a GGUF file": "fold model.gguf --edit gains-of-gguf --out folded.gguf",
    "lens": "lens {model} --neuron 0.1 --device cpu",
    "generate": "generate {model} --edit {edit} --strength 0 1 --new-tokens 2 --device cpu --quiet",
    "pairs check": "pairs check trl.jsonl --model {model} --logppl",
    "pairs import": "pairs import trl.jsonl --out imported.jsonl",
    "reproduce, planned": "reproduce --preset smoke --dry-run --out planned",
    "report": "report {reproduced} --out report",
    "models": "models",
}
"""What has other inputs than the commands that leave files, or leaves none."""


def write_others(folder: Path) -> None:
    """The files that they name."""
    write_adapter(tiny("llama"), lora("llama"), folder / "adapter")
    lm = wide("llama")
    write(lm, folder / "model.gguf")
    Edit.of(Gains(random_gains(lm)), about={"fingerprint": "llama-0f"}).save(folder / "gains-of-gguf")
    one = {"chosen": " is quiet", "rejected": " is loud"}
    write_jsonl(folder / "trl.jsonl", [{"prompt": "the sea", **one}, {"prompt": "the river", **one}])
    (folder / "own.toml").write_text(CONCEPT)
    (folder / "words.txt").write_text("sea\nriver\n")
    (folder / "prompts.txt").write_text("".join(f"{number} the river\n" for number in range(12)))
    comments = [[f"{number} {what}", wet] for number in range(60) for what, wet in (("the sea", 1), ("the town", 0))]
    write_csv(folder / "wet.csv", ["comment_text", "toxic"], comments)


@pytest.fixture(scope="module")
def told(tmp_path_factory, reproduced) -> dict[str, dict]:
    """Name of a command → its exit code and what it said, without a network."""
    folder = tmp_path_factory.mktemp("local")
    ground = make_ground(folder / "ground")
    write_others(folder)
    data = " ".join(ground.job.flags(max_windows=2, max_passages=2, limit=8))
    named = {**vars(ground.job), **vars(ground), "data": data, "reproduced": reproduced}
    lines = {name: order.given(ground, folder / name) for name, order in ORDERS.items()}
    lines |= {name: line.format(**named).split() for name, line in OTHERS.items()}
    given = [[str(part) for part in line] for line in lines.values()]
    return dict(zip(lines, crashes("unconnected", born_with=ONLINE, commands=given, cwd=str(folder)), strict=True))


@pytest.mark.parametrize("name", [*ORDERS, *OTHERS])
def test_a_command_with_local_things_needs_no_network(told, name):
    assert (told[name]["code"], told[name]["err"]) == (0, "")


def test_a_command_that_reaches_for_the_network_is_caught():
    (told,) = crashes("unconnected", born_with=ONLINE, commands=[["lens", "owner/name", "--neuron", "0.1"]], cwd=".")
    assert told["code"] == FORBIDDEN
    assert told["err"].startswith("forbidden: socket.")
