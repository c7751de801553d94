"""Commands killed at random moments, files damaged between: does each end with what an undisturbed run gives?

    python benchmarks/kills.py [--kills 50] [--seed 0] [--only edit]

Every command that leaves files is run once undisturbed on a tiny model. Then it is started, killed by SIGKILL at a
random moment, and started again, until all kills are used up; after every third kill one file of its folder is emptied,
cut off, or has a bit flipped. A command may refuse a damaged file in one line that names it: then the file is deleted,
as the line says, and the command started again. At the end every file must be as that of the undisturbed run, but for
the clocks of stages. Prints a table; exits with 1 where a file differs.
"""

import argparse
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

from helpers.damage import results
from helpers.every_command import ORDERS, Ground, make_ground
from helpers.forked import Forked
from helpers.unchanged import portable

DAMAGE_EVERY = 3
DAMAGES = ("emptied", "cut off", "a bit flipped")


@dataclass
class Command:
    """One command and what has been done to it."""

    name: str
    arguments: list[object]
    out: str
    """What `--out` names, a file or a folder, in the folder where the command runs."""
    seconds: float = 0.0
    """That an undisturbed run takes."""
    kills: int = 0
    damages: int = 0
    refused: int = 0
    """Times that it refused to go on in one line."""
    differ: list[str] = field(default_factory=list)
    """Files that are not those of the undisturbed run, and failures."""


def commands(ground: Ground) -> list[Command]:
    """Every command that leaves files."""
    given = {name: (order.arguments(ground), order.out) for name, order in ORDERS.items()}
    plain = ["--scorer", "helpers.jobs:softness", "--dtype", "float32", "--device", "cpu", "--new-tokens", "6"]
    texts = ["--method", "pplm", "--learn-text", ground.job.neutral, "--comments", ground.job.comments]
    steered = ["--count", "40", "--prompt-tokens", "4", "--step-size", "0.5"]
    given["pairs-pplm"] = ["pairs", ground.job.model, *texts, *steered, *plain], "pairs.jsonl"
    given["reproduce"] = ["reproduce", "--preset", one_study(ground.job.model.parent)], "out"
    return [Command(name, [*arguments, "--out", out], out) for name, (arguments, out) in given.items()]


def one_study(folder: Path) -> Path:
    """Of the preset for a quick look, the first study in one protocol, as a file."""
    smoke = (resources.files("dposcope") / "jobs/reproduce/presets/smoke.toml").read_text(encoding="utf-8")
    preset = folder / "one-study.toml"
    preset.write_text(smoke.rpartition("[[study]]")[0].replace(', "reference"]', "]"), encoding="utf-8")
    return preset


def start(command: Command, folder: Path) -> Forked:
    """The command, in its folder."""
    return portable(command.arguments, folder=folder)


def made(folder: Path) -> dict[str, object]:
    """All that a command wrote and that tells no time, without locks."""
    return {
        name: found
        for name, found in results(folder).items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def damage(folder: Path, draw: random.Random) -> Path | None:
    """Damage one file that the command has written; its path, or None where there is none."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size and path.suffix not in (".lock", ".part") and path.name != ".lock"
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


def disturb(command: Command, folder: Path, draw: random.Random) -> None:
    """Start the command, and kill it at a random moment; begin anew where it was done before."""
    running = start(command, folder)
    begun, moment = time.monotonic(), draw.uniform(0.02, 0.9) * command.seconds
    while running.poll() is None and time.monotonic() < begun + moment:
        time.sleep(0.005)
    running.kill()
    _, told = running.communicate()
    if running.returncode == -signal.SIGKILL:
        command.kills += 1
        if command.kills % DAMAGE_EVERY == 0 and damage(folder, draw) is not None:
            command.damages += 1
    elif running.returncode == 0 or not mend(command, folder, running.returncode or 0, told):
        empty(folder)


def empty(folder: Path) -> None:
    """Nothing in it."""
    shutil.rmtree(folder)
    folder.mkdir()


def mend(command: Command, folder: Path, code: int, told: str) -> bool:
    """Delete the damaged file that a refusal of one line names; without such a line the command has failed."""
    lines = told.strip().splitlines()
    if code == 2 and len(lines) == 1:
        command.refused += 1
        words = [word.lstrip("('\"").rstrip(".,;:)'\"") for word in lines[0].split()]
        named = [folder / word for word in words if word and (folder / word).exists() and (folder / word) != folder]
        for path in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
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
        tried = [one for one in commands(make_ground(root / "ground")) if one.name.startswith(given.only)]
        for command in tried:
            whole = root / f"{command.name}-whole"
            whole.mkdir()
            (root / command.name).mkdir()
            begun = time.monotonic()
            running = start(command, whole)
            _, told = running.communicate()
            command.seconds = time.monotonic() - begun
            if running.returncode:
                raise SystemExit(f"{command.name} fails undisturbed: {told}")
            print(f"{command.name}: {command.seconds:.1f} s undisturbed", file=sys.stderr, flush=True)
        while sum(one.kills for one in tried) < given.kills:
            fewest = min(tried, key=lambda one: one.kills)
            disturb(fewest, root / fewest.name, draw)
        for command in tried:
            if finish(command, root / command.name):
                found, expected = made(root / command.name), made(root / f"{command.name}-whole")
                names = sorted(found.keys() | expected.keys())
                command.differ += [name for name in names if found.get(name) != expected.get(name)]
            print(f"{command.name}: {command.kills} kills, {command.differ or 'the same'}", file=sys.stderr, flush=True)
    print(table(tried))
    sys.exit(1 if any(one.differ for one in tried) else 0)


if __name__ == "__main__":
    main()
