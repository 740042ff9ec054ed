"""A recovery end to end: a server replays the same pgbench WAL out of our archive, compressed and checked, and out of a
plain directory of uncompressed segments with `cp`. The clock runs from the start of the server to its first session."""

import shutil
import time

import archiving
from contenders import Contender, Pgwarm
from machine import Broken, run, say, wait_for
from report import Row
from server import MAKING, MEASURING, Server

RECOVERING = """archive_mode = off
hot_standby = off
restore_command = '{command}'
"""

# What the data must come to.
ANSWER = "SELECT count(*) || ' ' || sum(abalance) || ' ' || (SELECT count(*) FROM pgbench_history) FROM pgbench_accounts"


class Plain(Contender):
    """A directory of segments as PostgreSQL wrote them, on this machine."""

    name = "cp from a local directory"

    def fill(self, names):
        """Copies the segments there."""
        for name in names:
            shutil.copy(self.server.wal / name, self.archive / name)

    def restore_command(self):
        """What restore_command is."""
        return f"cp {self.archive}/%f %p"


class Ours(Pgwarm):
    """Our archive, zstd 1, with the worker that fetches ahead."""

    def fill(self, names):
        """Archives the segments."""
        self.server.start(MEASURING)
        try:
            self.server.drain(self.command(), names, self.per_segment_max)
        finally:
            self.server.stop()
        self.settle()
        archiving.verify(self, names)

    def restore_command(self):
        """What restore_command is."""
        return " ".join(self.words("restore-wal", "%f", "%p"))


def measure(bench):
    """Takes turns; gives the rows of the table."""
    folder = bench.work / "recovery"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = Server(bench.server.programs, folder / "source")
    names, answer = make(bench, source, folder / "base")
    plain = Plain(folder / "plain", source)
    ours = Ours(folder / "pgwarm", source, "restore-wal from our archive", bench.programs)
    both = [plain, ours]
    for contender in both:
        contender.prepare()
        contender.fill(names)
    samples = {contender.name: [] for contender in both}
    for turn in range(bench.rounds):
        for contender in both if turn % 2 else both[::-1]:
            took = recover(contender, Server(source.programs, folder / "restored"), folder / "base", answer)
            samples[contender.name].append(took)
            say(f"recovery, round {turn + 1} of {bench.rounds}: {contender.name}: {took:.2f} s")
    for contender in both:
        contender.remove()
    shutil.rmtree(folder)
    return [
        Row("recovery", plain.name, "s", samples[plain.name]),
        Row("recovery", ours.name, "s", samples[ours.name], plain.name, samples[plain.name], 1.1),
    ]


def make(bench, source, base):
    """A cold copy of a server, the segments that it wrote since, and what its data came to."""
    source.make()
    source.start(MAKING)
    source.client("pgbench", "-i", "-q", "-s", "30", "postgres")
    source.stop()
    shutil.copytree(source.data, base, symlinks=True)
    # Every segment is to come by restore_command.
    for entry in (base / "pg_wal").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    source.start(MAKING)
    first = source.sql("SELECT redo_wal_file FROM pg_control_checkpoint()")
    names = []
    while len(names) < bench.count:
        source.sql("CHECKPOINT")
        source.client("pgbench", "-n", "-c", "4", "-j", "2", "-T", "5", "postgres")
        names = [name for name in source.ready() if name >= first]
        say(f"{len(names)} of {bench.count} segments of pgbench WAL")
    answer = source.sql(ANSWER)
    source.sql("SELECT pg_switch_wal()")
    names = [name for name in source.ready() if name >= first]
    source.stop()
    return names, answer


def recover(contender, server, base, answer):
    """Seconds from the start of a server on a fresh copy to the end of its recovery."""
    if isinstance(contender, Pgwarm):
        contender.forget()
    shutil.rmtree(server.folder, ignore_errors=True)
    server.folder.mkdir()
    shutil.copytree(base, server.data, symlinks=True)
    # The copy carries the source's own place for the socket; what stands last counts.
    where = f"unix_socket_directories = '{server.folder}'\n"
    server.configure(RECOVERING.format(command=contender.restore_command()))
    with open(server.data / "postgresql.conf", "a", encoding="utf-8") as conf:
        conf.write(where)
    (server.data / "recovery.signal").touch()
    run("sync")
    begun = time.monotonic()
    server.start((server.data / "bench.conf").read_text())
    try:
        # Without hot_standby nobody is let in before the recovery has ended.
        ask = [server.programs / "psql", "-X", "-h", server.folder, "-U", "postgres", "-d", "postgres", "-c", "SELECT 1"]
        wait_for(f"the recovery by {contender.name}; see {server.log}",
                 lambda: run(*ask, check=False).returncode == 0, seconds=600, pause=0.05)
        took = time.monotonic() - begun
        found = server.sql(ANSWER)
        if found != answer:
            raise Broken(f"{contender.name} recovered '{found}' instead of '{answer}'; see {server.log}")
    finally:
        server.stop()
    contender.settle()
    return took
