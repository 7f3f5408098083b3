"""How long `minilm --help`, `import minilm` and a model's first vector take, each in a new process; medians.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ab import save

from minilm.export.quantize import quantize

HELP = "import sys; sys.argv[1:] = ['--help']; from minilm.cli.app import main; main()"
IMPORT = "import minilm, sys; assert 'torch' not in sys.modules"
VECTOR = (
    "import minilm, sys; minilm.load(sys.argv[1], precision=sys.argv[2], engine='native').encode(['one text']); "
    "assert 'torch' not in sys.modules"
)


def main() -> None:
    """Ten runs of each, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder, "int8")
        quantize("embedded", int8)
        commands = {
            "minilm --help": [HELP],
            "import minilm": [IMPORT],
            "the first vector of L6-H384, fp32": [VECTOR, "embedded", "fp32"],
            "the first vector of L6-H384, int8": [VECTOR, str(int8), "int8"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(10):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", *command], check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    save("startup", [{"command": name, "seconds": statistics.median(found)} for name, found in seconds.items()])


if __name__ == "__main__":
    main()
