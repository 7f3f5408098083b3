"""How long `minilm --help` and `import minilm` take, each in a new process; medians.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from ab import save

COMMANDS = {
    "minilm --help": [
        sys.executable,
        "-c",
        "import sys; sys.argv[1:] = ['--help']; from minilm.cli.app import main; main()",
    ],
    "import minilm": [sys.executable, "-c", "import minilm, sys; assert 'torch' not in sys.modules"],
}


def main() -> None:
    """Ten runs of each, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(10):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    save("startup", [{"command": name, "seconds": statistics.median(found)} for name, found in seconds.items()])


if __name__ == "__main__":
    main()
