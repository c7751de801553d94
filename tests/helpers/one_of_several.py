"""The command line as one of several processes: `FOLDER COMMAND …`. Only the first one may write in the folder."""

import os
import sys

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.move", "tempfile.mkstemp"}


def forbid_writing(folder: str) -> None:
    """From now on a change of the folder ends this process."""

    def hook(event: str, arguments: tuple) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in CHANGES) and any(str(one).startswith(folder) for one in arguments):
            os.write(2, f"forbidden: {event} {arguments}\n".encode())
            os._exit(77)

    sys.addaudithook(hook)


if __name__ == "__main__":
    from dposcope.cli import main

    if os.environ.get("RANK", "0") != "0":
        forbid_writing(sys.argv[1])
    main(sys.argv[2:])
