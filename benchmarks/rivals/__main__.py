"""Installs the rivals, each into a virtual environment of its own (3 GB in all, minutes)."""

import argparse
import subprocess
import venv

from benchmarks.rivals import HOME, REQUIREMENTS, interpreter, stamp


def install(name):
    folder = HOME / name
    print(f"{name}: installing {' '.join(REQUIREMENTS[name])}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*command, *REQUIREMENTS[name]], check=True)
    stamp(name).write_text("\n".join(REQUIREMENTS[name]), encoding="utf-8")


def main():
    argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__).parse_args()
    for name in REQUIREMENTS:
        if interpreter(name):
            print(f"{name}: already installed")
        else:
            install(name)


if __name__ == "__main__":
    main()
