"""Child processes that never outlive the demo, with their logs at hand when something fails."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Child:
    """A running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """The end of what it said."""
        said = self.log.read_text(errors="replace").splitlines()[-lines:]
        state = "running" if self.running else f"ended with {self.process.returncode}"
        return f"--- {self.name} ({state}), last lines:\n" + "\n".join(f"    {line}" for line in said)


class Children:
    """A group of child processes; leaving the ``with`` block ends them all, also by an exception or a signal.

    Args:
        folder: where their logs go.
        environment: theirs.
        patience_s: how long they may take to end after SIGINT, and again after SIGTERM, before they are killed.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], patience_s: tuple[float, float] = (6.0, 2.0)
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._environment, self._patience_s = folder, dict(environment), patience_s
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a program in a process group of its own."""
        path = self._folder / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        child = Child(name, process, path)
        self._children.append(child)
        return child

    def tails(self) -> str:
        """The end of every child's log."""
        return "\n".join(child.tail() for child in self._children)

    def stop(self) -> None:
        """Ask all children to end, then insist."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        for number, patience_s in zip(signals, (*self._patience_s, 5.0), strict=True):
            for child in self._children:
                if child.running:
                    _signal_group(child, number)
            deadline = time.monotonic() + patience_s
            while any(child.running for child in self._children) and time.monotonic() < deadline:
                time.sleep(0.02)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _signal_group(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.process.pid, number)
    except ProcessLookupError:  # it ended just now
        child.process.poll()


def _die_with_parent() -> None:
    """In the child: even a parent that is killed takes it along (Linux)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would inherit "ignored"
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
