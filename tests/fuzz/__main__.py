"""`python -m tests.fuzz --minutes N [TARGET ...]`: each target for its share of the time, coverage-guided by atheris.

Where atheris is not installed the same targets run on plain mutation, and the first line says so. What is found lies in
the folder given by `--corpus`, as atheris leaves it, and should become a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.mutation import mutations

TARGET_NAMES = ("frames", "messages", "cbor", "attestation", "chain", "cms", "nsm", "records", "jobs")
"""As in `tests.fuzz.targets`, which must not be imported before atheris can instrument what it imports."""

_INSTRUMENTED = ["protocol", "enclave", "asn1crypto"]
_MAX_INPUT_BYTES = 8192


def main() -> int:
    """Fuzz; return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers of hostile input.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGET_NAMES)}; all by default")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder of inputs and findings")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a target in a process of its own
    arguments = parser.parse_args()
    names: list[str] = arguments.targets or list(TARGET_NAMES)
    if unknown := set(names) - set(TARGET_NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    seconds = arguments.minutes * 60 / len(names)
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not installed: plain mutation, not guided by coverage", flush=True)  # noqa: T201
    if arguments.one:
        _run_guided(names[0], seconds, arguments.corpus)
    found = 0
    for name in names:
        found += _guided_process(name, arguments) if is_guided else _run_plain(name, seconds)
    return 1 if found else 0


def _guided_process(name: str, arguments: argparse.Namespace) -> int:
    """Run one target in a process of its own: libFuzzer ends the process in which it runs."""
    minutes = arguments.minutes / (len(arguments.targets) or len(TARGET_NAMES))
    corpus: Path = arguments.corpus
    command = [sys.executable, "-m", "tests.fuzz", "--one", "--minutes", str(minutes), "--corpus", str(corpus), name]
    return int(subprocess.run(command, check=False).returncode != 0)


def _run_guided(name: str, seconds: float, corpus: Path) -> None:
    """Hand this process to atheris; it never returns."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # an optional tool

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={_MAX_INPUT_BYTES}", "-timeout=10"]
    prefix = f"-artifact_prefix={corpus}/found-{name}-"
    atheris.Setup([sys.argv[0], *options, prefix, "-print_final_stats=1", str(folder)], TARGETS[name])
    atheris.Fuzz()


def _run_plain(name: str, seconds: float) -> int:
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

    target, deadline, count = TARGETS[name], time.monotonic() + seconds, 0
    for data in mutations(seeds(name), seed=time.monotonic_ns()):
        try:
            target(data)
        except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
            print(f"{name}: {type(error).__name__}: {error}\n  {data.hex()}", flush=True)  # noqa: T201
            return 1
        count += 1
        if time.monotonic() >= deadline:
            break
    print(f"{name}: {count} inputs, nothing found", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
