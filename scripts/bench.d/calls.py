"""What one call costs: in time where the answer is ready, in memory where the segments are large."""

import os
import shutil

from contenders import Pgwarm
from machine import Broken, memory_of, timed_well, wait_for
from report import Row
from restoring import call, same, standby
from server import Server


def ready_answers(bench):
    """Plays the archiver by hand: each call comes once its answer is known to be prepared and the worker is at rest."""
    ours = Pgwarm(bench.work / "ready", bench.server, "archive-wal, answer ready", bench.programs)
    ours.prepare()
    names = bench.segments[:bench.calls + 3]
    bench.server.pause()
    bench.server.mark(names)
    nothing, calls = [], []
    for number, name in enumerate(names[:-1]):
        took, _ = timed_well(ours.log, *ours.words("archive-wal", bench.server.wal / name))
        if number >= 2:
            calls.append(took)
            nothing.append(timed_well(ours.log, "/bin/true")[0])
        os.rename(bench.server.status / f"{name}.ready", bench.server.status / f"{name}.done")
        # The first call starts the worker, the second is the first that it hears of.
        if number >= 1:
            wanted = min(8, len(names) - number - 1)
            wait_for("the worker to look ahead", lambda: (ours.worker() or {}).get("prepared", 0) >= wanted)
        else:
            wait_for("the worker to start", ours.worker)
    ours.settle()
    ours.remove()
    return [
        Row("ready", "/bin/true", "ms/call", nothing),
        Row("ready", ours.name, "ms/call", calls, "/bin/true", nothing, 3.0, difference=True),
    ]


def memory(bench):
    """The largest RSS of each program over segments of 1 GiB, in both ways of archiving and of restoring."""
    server = large_segments(bench)
    names = server.ready()[:3]
    if len(names) < 3:
        raise Broken("the server has not closed three large segments")
    ours = Pgwarm(bench.work / "large/pgwarm", server, "pgwarm", bench.programs)
    ours.prepare()
    found = {}

    def measure(what, *words):
        _, found[what] = timed_well(ours.log, *words)

    measure("archive-wal --no-worker", *ours.words("archive-wal", "--no-worker", server.wal / names[0]))
    timed_well(ours.log, *ours.words("archive-wal", server.wal / names[0]))
    wait_for("the worker to start", ours.worker)
    for name in names[1:]:
        measure("archive-wal", *ours.words("archive-wal", server.wal / name))
    found["worker, archiving"] = memory_of(ours.worker()["process"], "VmHWM")
    ours.settle()
    data = standby(bench.work / "large/standby", server)
    target = data / "pg_wal" / "RECOVERYXLOG"
    measure("restore-wal --no-worker", *call(ours, names[0], target, data, "--no-worker"))
    same(target, server.wal / names[0])
    for name in names:
        measure("restore-wal", *call(ours, name, target, data))
        same(target, server.wal / name)
        wait_for("the worker to start", ours.worker)
    found["worker, restoring"] = memory_of(ours.worker()["process"], "VmHWM")
    ours.remove()
    shutil.rmtree(server.folder)
    return [Row("memory", name, "MiB at 1 GiB", [value / (1 << 20)], limit=64.0) for name, value in found.items()]


def large_segments(bench):
    """A server, stopped, that has closed three segments of 1 GiB."""
    server = Server(bench.server.programs, bench.work / "large/server")
    shutil.rmtree(server.folder, ignore_errors=True)
    server.make(segment_mebibytes=1024)
    server.start("fsync = off\nsynchronous_commit = off\ncheckpoint_timeout = 1d\n")
    try:
        server.client("pgbench", "-i", "-q", "-s", "40", "postgres")
        server.sql("SELECT pg_switch_wal()")
        for _ in range(2):
            server.sql("CREATE TABLE more AS SELECT i, md5(i::text) FROM generate_series(1, 500000) i; DROP TABLE more")
            server.sql("SELECT pg_switch_wal()")
    finally:
        server.stop()
    return server
