"""Draining: every contender archives the same segments by turns, and what it stored is decoded and compared each time."""

import subprocess

from contenders import Copy, NoOp, PgBackRest, Pgwarm, Rsync
from machine import Broken, say
from report import Row

# Decoding a whole archive takes longer than filling it, so the work is spread.
AT_A_TIME = 2

NO_LOOKAHEAD = "lookahead = 0\n"


def local_contenders(bench):
    """Those that write to a directory of this machine."""
    folder, server = bench.work / "local", bench.server
    contenders = [NoOp(folder / "no-op", server), Copy(folder / "copy", server)]
    if bench.pgbackrest:
        contenders.append(PgBackRest(folder / "pgbackrest-sync", server, asynchronous=False))
        contenders.append(PgBackRest(folder / "pgbackrest-async", server, asynchronous=True))
    contenders += [
        Pgwarm(folder / "pgwarm-alone", server, "pgwarm, --no-worker", bench.programs, NO_LOOKAHEAD, ("--no-worker",)),
        Pgwarm(folder / "pgwarm-worker", server, "pgwarm, no look-ahead", bench.programs, NO_LOOKAHEAD),
        Pgwarm(folder / "pgwarm", server, "pgwarm, look-ahead", bench.programs),
    ]
    targets = {
        "pgwarm, --no-worker": ("pgBackRest zst-1, sync", 0.5),
        "pgwarm, no look-ahead": ("pgBackRest zst-1, sync", 0.5),
        "pgwarm, look-ahead": ("pgBackRest zst-1, async", 0.5),
    }
    return contenders, targets


def ssh_contenders(bench):
    """Those that write over ssh on loopback."""
    folder, server, sshd = bench.work / "ssh", bench.server, bench.sshd()
    contenders = [Rsync(folder / "rsync", server, sshd)] if bench.rsync else []
    if bench.pgbackrest:
        contenders.append(PgBackRest(folder / "pgbackrest-sync", server, asynchronous=False, sshd=sshd))
        contenders.append(PgBackRest(folder / "pgbackrest-async", server, asynchronous=True, sshd=sshd))
    contenders.append(Pgwarm(folder / "pgwarm", server, "pgwarm, look-ahead, ssh", bench.programs, sshd=sshd))
    return contenders, {"pgwarm, look-ahead, ssh": ("pgBackRest zst-1, async, ssh", 0.5)}


def measure(bench, group, contenders, targets):
    """Lets them take turns; gives the rows of the table."""
    samples = {contender.name: [] for contender in contenders}
    for turn in range(bench.rounds):
        # Nobody always comes first, or always after the same one.
        for contender in contenders[turn % len(contenders):] + contenders[:turn % len(contenders)]:
            took = drain(contender, bench.segments)
            samples[contender.name].append(took)
            say(f"{group}, round {turn + 1} of {bench.rounds}: {contender.name}: {took:.2f} ms per segment")
    rows = []
    for contender in contenders:
        against, limit = targets.get(contender.name, (None, None))
        rows.append(Row(group, contender.name, "ms/segment", samples[contender.name], against, samples.get(against), limit))
    return rows


def drain(contender, segments, keep=False):
    """One drain: prepared, timed, verified; the archive is removed unless it is to be kept."""
    names = segments[:contender.count]
    contender.prepare()
    took = contender.server.drain(contender.command(), names, contender.per_segment_max)
    contender.settle()
    verify(contender, names)
    if not keep:
        contender.remove()
    return took


def verify(contender, names):
    """Every segment must be there and decode to the very bytes of pg_wal."""
    waiting = list(names)
    while waiting:
        wave, waiting = waiting[:AT_A_TIME], waiting[AT_A_TIME:]
        running = []
        for name in wave:
            stored = contender.stored(name)
            if not stored:
                raise Broken(f"{contender.name} has archived '{name}', but its archive does not hold it")
            running.append((name, compare(stored, contender.server.wal / name)))
        for name, (reader, comparison) in running:
            if comparison.wait(60) != 0 or (reader and reader.wait(60) != 0):
                raise Broken(f"{contender.name} has stored '{name}' with other content")


def compare(stored, original):
    """Starts the comparison of a stored file, decoded, with what it was made from."""
    if not str(stored).endswith(".zst"):
        return None, subprocess.Popen(["cmp", "-s", str(stored), str(original)])
    reader = subprocess.Popen(["zstd", "-d", "-q", "-c", str(stored)], stdout=subprocess.PIPE)
    comparison = subprocess.Popen(["cmp", "-s", "-", str(original)], stdin=reader.stdout)
    reader.stdout.close()
    return reader, comparison
