"""Several processes of one program, which end with the test."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time


def free_ports(num):
    """Ports of this machine that nobody listens on, nor will before they are used.

    A process that imports TensorFlow takes a while to listen. Ports from 32,768 on may be given
    to others meanwhile, for systems take those for whoever asks for any.
    """
    tester = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = []
    while len(ports) < num:
        port = 20_000 + 500 * (tester % 24) + random.SystemRandom().randrange(500)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports += [port] if port not in ports else []
    return ports


def ended(commands, folder, environments=(), seconds=900, alone=60):
    """Exit codes, outputs and errors of processes that run side by side.

    When one has failed, others have `alone` seconds left, for they may wait for it for ever.
    """
    outputs = [[folder / f"{name}{i}" for name in ("out", "err")] for i in range(len(commands))]
    started = []
    for i, (command, (out, err)) in enumerate(zip(commands, outputs, strict=True)):
        own = environments[i] if environments else {}
        with out.open("w") as stdout, err.open("w") as stderr:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", *map(str, command)],
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **own},
                    stdout=stdout,
                    stderr=stderr,
                )
            )
    end = time.monotonic() + seconds
    while any(one.poll() is None for one in started) and time.monotonic() < end:
        if any(one.poll() for one in started):
            end = min(end, time.monotonic() + alone)
        time.sleep(0.1)
    for one in started:
        one.kill()
        one.wait()
    read = [[path.read_text() for path in pair] for pair in outputs]
    return [(one.returncode, *texts) for one, texts in zip(started, read, strict=True)]


def workers(folder, num=2, **environment):
    """What `tests.distribution.one_worker` ends with, in each of several processes; -1 for one."""
    command = ["-m", "tests.distribution.one_worker"]
    environment = {"MODEL": str(folder / "model.keras"), **environment}
    if num == 1:
        return ended([[*command, -1]], folder, [environment])
    ports = free_ports(num)
    commands = [[*command, index, *ports] for index in range(num)]
    return ended(commands, folder, [environment] * num)


def found(result):
    """The JSON that a process has printed last."""
    code, out, err = result
    assert code == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])
