"""`python` and `minilm` commands that start in milliseconds: forks of a process that has imported the libraries.

    python forked.py serve SOCKET                  imports numpy, torch, ... once, and forks for each request
    python -S -E forked.py run SOCKET python ...   asks for one: arguments, environment, folder, standard streams

The package itself is not imported before the fork, so a command loads it as a user's does. Signals to the client are
passed on to its fork, and the fork is killed when the client dies. Limits on resources are not passed on.
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys

LIBRARIES = (
    *("numpy", "safetensors.numpy", "tokenizers", "pydantic.main", "pydantic.types", "typer", "rich", "jinja2"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg"),
    *("torch", "torch._dynamo", "torch.distributed.run", "transformers.models.bert.modeling_bert"),
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(address: str, arguments: list[str]) -> None:
    """The client: wait for the fork and end as it does."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = json.dumps({"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(request)
    with connection.makefile("r") as answers:
        pid = int(answers.readline())
        for number in SIGNALS:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(address: str) -> None:
    """The server: one child for each request, which forks the command and waits for it."""
    import importlib

    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:  # an extra that is not installed
            continue
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            attend(connection)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Fork the command of one request, and wait for it."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as reader:
        request = json.loads(reader.read(int.from_bytes(size, "big")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        leave(request["arguments"])
    connection.sendall(f"{pid}\n".encode())
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # the client is gone
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def leave(arguments: list[str]) -> None:
    """Execute, then exit at once: unloading the libraries would copy their memory."""
    code: object = 0
    try:
        execute(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads
            code = code or 120
    os._exit(code or 0)


def execute(arguments: list[str]) -> None:
    """What `python ARGUMENTS` or `minilm ARGUMENTS` does."""
    import runpy

    program, *rest = arguments
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = paths
    if program == "minilm":
        sys.argv = ["minilm", *rest]
        from minilm.cli.app import main

        main()
        return
    rest = [argument for argument in rest if argument != "-u"]
    kind = rest[0]
    sys.argv = rest[1:] if kind in ("-m", "-c") else rest
    if kind == "-m":
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[0] = "-c"
        sys.path.insert(0, "")
        exec(compile(rest[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3:])
