"""Restoring: single calls over a local archive, and a standby's requests over ssh, each against pgBackRest's own."""

import shutil

import archiving
from contenders import PgBackRest, Pgwarm
from machine import Broken, say, timed_well
from report import Row

# How many consecutive segments a standby asks for.
CONSECUTIVE = 64


def standby(folder, server):
    """A directory that looks like the data directory of a standby of that server, as far as both ask."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("pg_wal", "global"):
        (folder / part).mkdir(mode=0o700, parents=True)
    for part in ("PG_VERSION", "global/pg_control"):
        shutil.copy(server.data / part, folder / part)
    (folder / "standby.signal").touch()
    return folder


def same(target, original):
    """Takes the restored file away if it is the right one."""
    reader, comparison = archiving.compare(target, original)
    if comparison.wait(60) != 0:
        raise Broken(f"'{original.name}' was restored with other content")
    target.unlink()


def single_calls(bench):
    """One call after the other, by turns, each for another segment; the files land on the same disk."""
    ours = Pgwarm(bench.work / "restore/pgwarm", bench.server, "restore-wal, one call", bench.programs)
    theirs = PgBackRest(bench.work / "restore/pgbackrest", bench.server, asynchronous=False) if bench.pgbackrest else None
    both = [contender for contender in (theirs, ours) if contender]
    for contender in both:
        archiving.drain(contender, bench.segments, keep=True)
    data = standby(bench.work / "restore/standby", bench.server)
    target = data / "pg_wal" / "RECOVERYXLOG"
    samples = {contender.name: [] for contender in both}
    for number, name in enumerate(bench.segments[:bench.calls]):
        for contender in both if number % 2 else both[::-1]:
            took, _ = timed_well(contender.log, *call(contender, name, target, data, "--no-worker"))
            samples[contender.name].append(took)
            same(target, bench.server.wal / name)
    rows = []
    if theirs:
        rows.append(Row("restore", "pgBackRest archive-get", "ms/call", samples[theirs.name]))
    rows.append(Row("restore", ours.name, "ms/call", samples[ours.name], "pgBackRest archive-get",
                    samples.get(theirs.name) if theirs else None, 0.6))
    for contender in both:
        contender.remove()
    return rows


def over_ssh(bench):
    """A standby far behind asks for one segment after the other; both sides fetch ahead."""
    sshd = bench.sshd()
    ours = Pgwarm(bench.work / "restore-ssh/pgwarm", bench.server, "restore-wal, prefetch, ssh", bench.programs, sshd=sshd)
    both = [ours]
    if bench.pgbackrest:
        both.append(PgBackRest(bench.work / "restore-ssh/pgbackrest", bench.server, asynchronous=True, sshd=sshd))
    for contender in both:
        archiving.drain(contender, bench.segments, keep=True)
    data = standby(bench.work / "restore-ssh/standby", bench.server)
    samples = {contender.name: [] for contender in both}
    for turn in range(bench.rounds):
        for contender in both if turn % 2 else both[::-1]:
            took = catch_up(bench, contender, data)
            samples[contender.name].append(took)
            say(f"restore-ssh, round {turn + 1} of {bench.rounds}: {contender.name}: {took:.2f} ms per segment")
    theirs = samples[both[1].name] if bench.pgbackrest else None
    rows = []
    if theirs:
        rows.append(Row("restore-ssh", "pgBackRest archive-get, async, ssh", "ms/segment", theirs))
    rows.append(Row("restore-ssh", ours.name, "ms/segment", samples[ours.name],
                    "pgBackRest archive-get, async, ssh", theirs, 0.5))
    for contender in both:
        contender.remove()
    return rows


def catch_up(bench, contender, data):
    """Milliseconds per segment over consecutive segments, the time for comparing them left out."""
    contender.forget()
    target = data / "pg_wal" / "RECOVERYXLOG"
    names = bench.segments[:CONSECUTIVE]
    spent = 0.0
    for name in names:
        took, _ = timed_well(contender.log, *call(contender, name, target, data))
        spent += took
        # PostgreSQL reads the file now; a hard link keeps it for the comparison.
        target.rename(data / "pg_wal" / f"{name}.kept")
    contender.settle()
    for name in names:
        same(data / "pg_wal" / f"{name}.kept", bench.server.wal / name)
    return spent / len(names)


def call(contender, name, target, data, *flags):
    """The words of a restore_command."""
    if isinstance(contender, PgBackRest):
        return [*contender.words(f"--pg1-path={data}"), "archive-get", name, target]
    return contender.words("restore-wal", *flags, name, target)
