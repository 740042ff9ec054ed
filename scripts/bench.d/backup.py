"""Base backups of a pgbench cluster: full, incremental and restored, by turns with pgBackRest and pg_basebackup.

The server runs with page checksums and is idle while it is backed up; every file was written before, so that what
everybody reads lies in the kernel's cache. Two processes or threads each, zstd 1.
"""

import shutil
import time

from contenders import PgBackRest, Pgwarm
from machine import run, say, timed_well, wait_for
from report import Row
from server import MEASURING, Server

# So many MiB of data come with each unit of pgbench's scale.
MEBIBYTES_PER_SCALE = 16.6

# Of so many blocks one is changed: the table is filled to 90 % and holds about 54 rows a block.
ROWS_PER_CHANGE = 5400

# Files that were written so short a time before count as changed, with anybody who looks at times.
SETTLED = 4.0

KIND = {"full": "full", "nothing changed": "incr", "1 % changed": "incr"}


class OurBackups(Pgwarm):
    """base-backup, into an archive of this machine."""

    def prepare(self):
        super().prepare()
        config = self.folder / "pgwarm.ini"
        where = f"conninfo = host={self.server.folder} user=postgres dbname=postgres\n"
        config.write_text(f"{config.read_text()}{where}\n[backup]\njobs = 2\ncompress = zstd\nlevel = 1\n")

    def take(self, kind):
        """The words of a backup."""
        return self.words("base-backup", "take", *(["--incremental"] if kind == "incr" else []))

    def restore(self, label, target):
        """The words of a restore."""
        return self.words("base-backup", "restore", label, "--to", target)

    def newest(self):
        """The newest backup's label."""
        return run(*self.words("base-backup", "show", "latest")).stdout.split()[1]


class TheirBackups(PgBackRest):
    """pgBackRest with two processes."""

    def prepare(self):
        super().prepare()
        more = f"pg1-socket-path={self.server.folder}\npg1-user=postgres\n"
        self.config.write_text(self.config.read_text() + more)

    def take(self, kind):
        """The words of a backup."""
        return self.words(f"--type={kind}", "--start-fast", "--repo1-retention-full=99", "backup")

    def restore(self, label, target):
        """The words of a restore."""
        target.mkdir(mode=0o700)
        return self.words(f"--pg1-path={target}", f"--set={label}", "restore")

    def newest(self):
        """The newest backup's label."""
        folders = (self.archive / "backup" / "bench").iterdir()
        return max(entry.name for entry in folders if entry.is_dir() and entry.name[0].isdigit())


class PgBasebackup:
    """PostgreSQL's own, compressing in the server, without WAL."""

    name = "pg_basebackup, server-zstd:1"

    def __init__(self, folder, server):
        self.folder, self.server, self.log = folder, server, folder.parent / "pg_basebackup.log"

    def prepare(self):
        """Nothing in the way."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, _kind):
        """The words of a backup."""
        return [self.server.programs / "pg_basebackup", "-h", self.server.folder, "-U", "postgres", "-D", self.folder,
                "-F", "t", "--compress=server-zstd:1", "-c", "fast", "-X", "none"]

    def remove(self):
        """Gives the room back."""
        self.prepare()


def measure(bench):
    """Takes turns; gives the rows of the table."""
    folder = bench.work / "backup"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    server = Server(bench.server.programs, folder / "server")
    server.make(16, "--data-checksums")
    try:
        return turns(bench, folder, server)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def turns(bench, folder, server):
    """Fills the server and lets the contenders take turns."""
    server.start(MEASURING)
    say(f"filling {bench.backup_size} MiB")
    scale = max(1, round(bench.backup_size / MEBIBYTES_PER_SCALE))
    server.client("pgbench", "-i", "-q", "-F", "90", "-s", str(scale), "postgres")
    server.sql("VACUUM FREEZE ANALYZE")
    ours = OurBackups(folder / "pgwarm", server, "base-backup take", bench.programs)
    theirs = TheirBackups(folder / "pgbackrest", server, asynchronous=False) if bench.pgbackrest else None
    samples = {}
    memory = []
    for turn in range(bench.rounds):
        both = [contender for contender in (ours, theirs) if contender]
        both = both if turn % 2 else both[::-1]
        for contender in both:
            contender.prepare()
        one_turn(bench, folder, server, both, turn, samples, memory)
        for contender in both:
            contender.remove()
    return rows(ours, theirs, samples, memory)


def one_turn(bench, folder, server, both, turn, samples, memory):
    """Full, nothing changed, 1 % changed, restored."""
    def note(what, contender, took):
        samples.setdefault((what, contender.name), []).append(took / 1000)
        say(f"backup, round {turn + 1} of {bench.rounds}: {what}: {contender.name}: {took / 1000:.2f} s")

    labels = {}
    for what, kind in KIND.items():
        if what == "1 % changed":
            change(server)
        settle(server)
        for contender in both:
            shipping_to(server, contender)
            took, largest = timed_well(contender.log, *contender.take(kind))
            note(what, contender, took)
            if isinstance(contender, OurBackups):
                memory.append(largest / (1 << 20))
            labels.setdefault(contender.name, contender.newest())
        if kind == "full":
            base = PgBasebackup(folder / "basebackup", server)
            base.prepare()
            note(what, base, timed_well(base.log, *base.take(kind))[0])
            base.remove()
    for contender in both:
        target = folder / "restored"
        took, largest = timed_well(contender.log, *contender.restore(labels[contender.name], target))
        note("restore", contender, took)
        if isinstance(contender, OurBackups):
            memory.append(largest / (1 << 20))
            run(server.programs / "pg_verifybackup", "--no-parse-wal", target)
        shutil.rmtree(target)


def settle(server):
    """Makes the next backups begin with everything written, and with times that can be trusted."""
    server.sql("CHECKPOINT")
    run("sync")
    time.sleep(SETTLED)


def change(server):
    """Changes one block of a hundred, spread evenly."""
    server.sql(f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % {ROWS_PER_CHANGE} = 1")


def shipping_to(server, contender):
    """Lets the server archive with this contender, whose archive must get the WAL of its backups."""
    quoted = contender.command().replace("'", "''")
    server.reload(f"{MEASURING}archive_command = '{quoted}'\n")
    wait_for("the server to reload", lambda: server.sql("SHOW archive_command") == contender.command())
    server.sql("SELECT pg_switch_wal()")
    wait_for("the archive to catch up", lambda: not server.ready())


def rows(ours, theirs, samples, memory):
    """The rows of the table."""
    def peer(what, name):
        return samples.get((what, name))

    their_name = theirs.name if theirs else "pgBackRest"
    found = []
    for what, limit in (("full", 0.7), ("nothing changed", 0.3), ("1 % changed", 0.3), ("restore", 0.7)):
        if theirs:
            found.append(Row("backup", f"{what}: {their_name}", "s", samples[what, their_name]))
        if what == "full":
            name = PgBasebackup.name
            found.append(Row("backup", f"full: {name}", "s", samples["full", name]))
            found.append(Row("backup", f"full: {ours.name}", "s", samples["full", ours.name], name, peer("full", name), 1.0))
        found.append(Row("backup", f"{what}: {ours.name}", "s", samples[what, ours.name], their_name,
                         peer(what, their_name), limit))
    found.append(Row("backup", "memory, the largest", "MiB", memory, limit=256))
    return found
