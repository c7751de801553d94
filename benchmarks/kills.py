"""Commands killed at random moments, files damaged between: does each end with what an undisturbed run gives?

    python benchmarks/kills.py [--kills 50] [--seed 0] [--only edit]

Every command that goes on where it stopped is run once undisturbed on a tiny model. Then it is started, killed by
SIGKILL at a random moment, and started again, until all kills are used up; after every third kill one file of its
folder is emptied, cut off, or has a bit flipped. A command may refuse a damaged file in one line that names it: then
the file is deleted, as the line says, and the command started again. At the end every file must be as that of the
undisturbed run, but for the clocks of stages. Prints a table; exits with 1 where a file differs.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers.changes import tuned_copy
from helpers.families import tiny
from helpers.forked import Forked
from helpers.jobs import Job, contents, make_job
from helpers.preferences import pairs_file
from helpers.unchanged import flags, portable

DAMAGE_EVERY = 3
DAMAGES = ("emptied", "cut off", "a bit flipped")
SMALL_SEARCH = ["--split", "halves", "--trials", "8", "--max-logppl-increase", "0.5", "--search-windows", "10"]
LEARNING = ["--samples", "4", "--epochs", "2", "--pairing", "extremes", "--min-gap", "0.02"]
LOOSE = ["--max-harmless-increase", "1000", "--max-phrase-rise", "1"]
PAPER = ["--toxic-neurons", "8", "--folds", "2", "--seeds", "2", "--steer", "0.1", "--no-claim-directions"]
TRAINING = ["--epochs", "2", "--batch-size", "4", "--micro-batch-size", "2", "--validation", "5"]
TRAINING += ["--validate-every", "8", "--window-tokens", "12", "--window-pool", "9", "--learning-rate", "0.01"]
ON_CPU = ["--dtype", "float32", "--device", "cpu"]
SAMPLED = ["--samples", "4", "--pairing", "extremes", "--min-gap", "0.05", "--new-tokens", "6", "--use", "all"]
PPLM = ["--count", "40", "--prompt-tokens", "4", "--new-tokens", "6", "--step-size", "0.5"]


@dataclass
class Command:
    """One command and what has been done to it."""

    name: str
    arguments: list[str]
    out: str
    """What `--out` names: a file or a folder."""
    seconds: float = 0.0
    """That an undisturbed run takes."""
    kills: int = 0
    damages: int = 0
    refused: int = 0
    """Damaged files that it refused in one line."""
    differ: list[str] = field(default_factory=list)
    """Files that are not those of the undisturbed run, and failures."""


def commands(job: Job) -> list[Command]:
    """Every resumable command, in folders beside the job's."""
    shared = flags(job)
    pairs = ["pairs", "job/model", "--scorer", "helpers.jobs:softness", *ON_CPU]
    dpo = ["dpo", "job/model", "--pairs", "pairs.jsonl", "--neutral", "job/neutral.txt", *TRAINING, *ON_CPU]
    given = {
        "edit": ["edit", "job/model", *shared],
        "evaluate": ["evaluate", "job/model", *shared, "--condition", "scale:alpha=0.2,beta=0.5"],
        "tune": ["tune", "job/model", *shared, *SMALL_SEARCH, *LEARNING, *LOOSE],
        "explain": ["explain", "job/model", "tuned", *shared, *PAPER],
        "pairs-sample": [*pairs, "--method", "sample", "--prompts", "job/prompts.jsonl", *SAMPLED],
        "pairs-pplm": [
            *pairs,
            "--method",
            "pplm",
            "--text",
            "job/neutral.txt",
            "--comments",
            "job/comments.csv",
            *PPLM,
        ],
        "dpo-full": dpo,
        "dpo-gains": [*dpo, "--train", "gains"],
        "fold": ["fold", "job/model", "--edit", "edit.safetensors"],
        "reproduce": ["reproduce", "--preset", "part.toml"],
    }
    outs = {name: "out.jsonl" if name.startswith("pairs") else "out" for name in given}
    return [Command(name, [*arguments, "--out", outs[name]], outs[name]) for name, arguments in given.items()]


def one_study() -> str:
    """Of the preset for a quick look, the first study in one protocol."""
    smoke = (resources.files("dposcope") / "jobs/reproduce/presets/smoke.toml").read_text(encoding="utf-8")
    return smoke.rpartition("[[study]]")[0].replace(', "reference"]', "]")


def prepare(folder: Path, job: Path) -> Path:
    """A folder of its own for one command, where the same relative paths lead to the same files."""
    folder.mkdir()
    for one in job.iterdir():
        (folder / one.name).symlink_to(one)
    return folder


def start(command: Command, folder: Path) -> Forked:
    """The command, in its folder."""
    return portable(command.arguments, folder=folder)


def made(folder: Path, job: Path) -> dict[str, bytes]:
    """All that a command wrote, without the clocks of its stages and without locks."""
    found: dict[str, bytes] = {}
    for path in folder.iterdir():
        if (job / path.name).exists() or path.name.startswith("."):
            continue
        files = (
            {f"/{name}": data for name, data in contents(path).items()} if path.is_dir() else {"": path.read_bytes()}
        )
        for name, data in files.items():
            if not any(part.startswith(".") for part in Path(name).parts):
                found[path.name + name] = without_clock(data) if "/stages/" in name else data
    return found


def without_clock(record: bytes) -> bytes:
    """A stage's record, whatever the stage took."""
    return json.dumps({**json.loads(record), "seconds": 0}).encode()


def damage(folder: Path, job: Path, draw: random.Random) -> Path | None:
    """Damage one file that the command has written; its path."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.stat().st_size and not path.name.endswith(".lock")
        if not (job / path.relative_to(folder).parts[0]).exists() and path.suffix != ".part"
    ]
    if not files:
        return None
    path = draw.choice(files)
    data = bytearray(path.read_bytes())
    match draw.choice(DAMAGES):
        case "emptied":
            data.clear()
        case "cut off":
            del data[len(data) // 2 :]
        case _:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return path


def disturb(command: Command, folder: Path, job: Path, draw: random.Random) -> None:
    """Start the command, and kill it at a random moment; start over where it ended before."""
    running = start(command, folder)
    begun, moment = time.monotonic(), draw.uniform(0.02, 0.9) * command.seconds
    while running.poll() is None and time.monotonic() < begun + moment:
        time.sleep(0.005)
    running.kill()
    _, told = running.communicate()
    if running.returncode == -signal.SIGKILL:
        command.kills += 1
        if command.kills % DAMAGE_EVERY == 0 and damage(folder, job, draw) is not None:
            command.damages += 1
    elif running.returncode == 0:
        shutil.rmtree(folder / command.out) if (folder / command.out).is_dir() else (folder / command.out).unlink()
    else:
        mend(command, folder, running.returncode, told)


def mend(command: Command, folder: Path, code: int, told: str) -> bool:
    """Delete the damaged file that a refusal names, or begin anew where the command says that; else it has failed."""
    lines = told.strip().splitlines()
    if code == 2 and len(lines) == 1:
        command.refused += 1
        words = [word.lstrip("('\"").rstrip(".,;:)'\"") for word in lines[0].split()]
        named = [folder / word for word in words if word and (folder / word).is_file()]
        for path in named:
            path.unlink()
        if named:
            return True
    command.differ.append(f"exit {code}: {' '.join(lines)[-300:]}")
    return False


def finish(command: Command, folder: Path) -> bool:
    """Run it to its end."""
    for _ in range(5):
        running = start(command, folder)
        _, told = running.communicate()
        if running.returncode == 0:
            return True
        if not mend(command, folder, running.returncode or 0, told):
            return False
    return False


def table(tried: Sequence[Command]) -> str:
    """Rows: commands; the last: all."""
    lines = ["| command | undisturbed, s | kills | files damaged | refused | differs |", "| --- |" + " --- |" * 5]
    for one in tried:
        differ = "; ".join(one.differ[:4]) or "–"
        lines.append(f"| {one.name} | {one.seconds:.1f} | {one.kills} | {one.damages} | {one.refused} | {differ} |")
    sums = (sum(getattr(one, name) for one in tried) for name in ("kills", "damages", "refused"))
    lines.append(f"| all | | {' | '.join(map(str, sums))} | {sum(bool(one.differ) for one in tried)} commands |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands whose name begins so")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shared = root / "shared"
        job = make_job(shared / "job", windows=40)
        tuned_copy(tiny("llama")).save_pretrained(shared / "tuned")
        pairs_file(shared / "pairs.jsonl")
        (shared / "part.toml").write_text(one_study(), encoding="utf-8")
        tried = [one for one in commands(job) if one.name.startswith(given.only)]
        first = prepare(root / "first", shared)
        edit = next(one for one in commands(job) if one.name == "edit")
        start(edit, first).communicate()
        for name in ("edit.safetensors", "edit.json"):
            shutil.copy(first / "out" / name, shared / name)
        for command in tried:
            whole = prepare(root / f"{command.name}-whole", shared)
            begun = time.monotonic()
            with start(command, whole) as running:
                _, told = running.communicate()
            command.seconds = time.monotonic() - begun
            if running.returncode:
                raise SystemExit(f"{command.name} fails undisturbed: {told}")
            prepare(root / command.name, shared)
            print(f"{command.name}: {command.seconds:.1f} s undisturbed", file=sys.stderr, flush=True)
        while sum(one.kills for one in tried) < given.kills:
            fewest = min((one for one in tried), key=lambda one: one.kills)
            disturb(fewest, root / fewest.name, shared, draw)
        for command in tried:
            if finish(command, root / command.name):
                found, expected = made(root / command.name, shared), made(root / f"{command.name}-whole", shared)
                names = sorted(found.keys() | expected.keys())
                command.differ += [name for name in names if found.get(name) != expected.get(name)]
            print(f"{command.name}: {command.kills} kills, {command.differ or 'the same'}", file=sys.stderr, flush=True)
    print(table(tried))
    sys.exit(1 if any(one.differ for one in tried) else 0)


if __name__ == "__main__":
    main()
