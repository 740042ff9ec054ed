"""What the measurements need of the machine: starting and timing programs, waiting, taking everything down again."""

import os
import signal
import socket
import subprocess
import sys
import time


class Broken(Exception):
    """The run cannot go on; a missed target is never one."""


def say(text):
    """Progress goes to standard error, so that --json stays clean."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*words, check=True, **more):
    """Runs a program, its output caught."""
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, **more
    )
    if check and done.returncode != 0:
        raise Broken(f"'{' '.join(map(str, words))}' ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def timed(log, *words):
    """Runs a program and tells how long it took in milliseconds, its exit code, and its largest RSS in bytes.

    posix_spawn, because a fork of this interpreter would cost more than some of the programs measured. The kernel
    counts this interpreter's own RSS into the child's, so about 15 MiB is the least that can be seen.
    """
    words = [str(word) for word in words]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    to_log = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    to_log += [(os.POSIX_SPAWN_OPEN, descriptor, str(log), flags, 0o600) for descriptor in (1, 2)]
    begun = time.perf_counter()
    child = os.posix_spawn(words[0], words, os.environ, file_actions=to_log)
    _, status, usage = os.wait4(child, 0)
    took = (time.perf_counter() - begun) * 1000
    return took, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def timed_well(log, *words):
    """The same for a program that must succeed: its milliseconds and bytes."""
    took, code, memory = timed(log, *words)
    if code != 0:
        raise Broken(f"'{' '.join(map(str, words))}' ended with {code}; see {tail(log)}")
    return took, memory


def tail(path):
    """The end of a log, for a message."""
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            return f"{path}: {' | '.join(log.read().splitlines()[-6:])}"
    except OSError:
        return f"{path}, which is not there"


def wait_for(what, condition, seconds=120.0, pause=0.02):
    """Waits until a condition holds; gives back what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Broken(f"gave up waiting: {what}")
        time.sleep(pause)


def processes_with(text):
    """The numbers of the processes whose command line holds a text; it should be a path of this run alone."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as words:
                if text.encode() in words.read():
                    found.append(int(entry))
        except OSError:
            continue
    return found


def end(process):
    """Ends a process of this run; it may be gone already."""
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        pass


def memory_of(process, what):
    """What a process has in memory, in bytes: VmRSS is now, VmHWM the most it ever had."""
    with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
    raise Broken(f"process {process} does not tell its {what}")


def free_port():
    """A port on loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
