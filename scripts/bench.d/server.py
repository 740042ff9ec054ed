"""A PostgreSQL server whose archiver is the clock: it drains segments of pgbench WAL through one archive_command after
the other. One server serves all contenders; between them the segments are marked ready again."""

import os
import pathlib
import signal
import time

from machine import Broken, run, say, tail, wait_for

# Nothing is recycled while the same segments are archived again and again.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
archive_mode = on
archive_command = ''
wal_keep_size = 40GB
max_wal_size = 40GB
autovacuum = off
bgwriter_lru_maxpages = 0
shared_buffers = 256MB
logging_collector = off
include_if_exists = 'bench.conf'
"""

# Only the making of the WAL goes without fsync.
MAKING = "fsync = off\nsynchronous_commit = off\ncheckpoint_timeout = 1d\n"
MEASURING = "checkpoint_timeout = 1d\n"


class Server:
    """One cluster in `folder`/data."""

    def __init__(self, programs, folder):
        self.programs = pathlib.Path(programs)
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.wal = self.data / "pg_wal"
        self.status = self.wal / "archive_status"
        self.log = self.folder / "server.log"

    def make(self, segment_mebibytes=16, *options):
        """A new cluster; `options` are initdb's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        run(self.programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync",
            f"--wal-segsize={segment_mebibytes}", *options)
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(SETTINGS.format(folder=self.folder))

    def configure(self, text):
        """Replaces what differs from one phase to the next."""
        (self.data / "bench.conf").write_text(text, encoding="utf-8")

    def start(self, text):
        """Starts it with these settings."""
        self.configure(text)
        run(self.programs / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "600", "start",
            env={**os.environ, "PGHOST": str(self.folder)})

    def stop(self):
        """Stops it, if it runs."""
        if (self.data / "postmaster.pid").exists():
            run(self.programs / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "-t", "120", "stop", check=False)

    def client(self, program, *words):
        """Runs psql, pgbench and the like on it."""
        return run(self.programs / program, "-h", self.folder, "-U", "postgres", *words)

    def sql(self, text):
        """The answer to one statement."""
        return self.client("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text).stdout.strip()

    def ready(self):
        """The segments that wait, oldest first."""
        return sorted(name[:-6] for name in os.listdir(self.status) if name.endswith(".ready"))

    def make_wal(self, count):
        """Lets pgbench write until `count` of its segments are complete, and names them."""
        self.start(MAKING)
        self.client("pgbench", "-i", "-q", "-s", "30", "postgres")
        first = self.sql("SELECT pg_walfile_name(pg_switch_wal() + 16777216)")
        complete = []
        while len(complete) < count:
            # Whole pages follow a checkpoint, so WAL comes faster, as on a busy server.
            self.sql("CHECKPOINT")
            self.client("pgbench", "-n", "-c", "4", "-j", "2", "-T", "5", "postgres")
            complete = [name for name in self.ready() if name >= first]
            say(f"{len(complete)} of {count} segments of pgbench WAL")
        self.stop()
        return complete[:count]

    def mark(self, names):
        """Marks exactly these segments ready, as PostgreSQL does; every other one is done."""
        names = set(names)
        for name in os.listdir(self.status):
            segment, _, state = name.rpartition(".")
            if (state == "ready") != (segment in names):
                os.rename(self.status / name, self.status / f"{segment}.{'ready' if segment in names else 'done'}")

    def pause(self):
        """Takes the archive_command away; returns once the server has noticed."""
        self.reload(f"{MEASURING}archive_command = ''\n")
        wait_for("the server to reload", lambda: self.sql("SHOW archive_command") in ("", "(disabled)"))

    def reload(self, text):
        """Changes settings and tells the postmaster."""
        self.configure(text)
        with open(self.data / "postmaster.pid", encoding="ascii") as pid:
            os.kill(int(pid.readline()), signal.SIGHUP)

    def drain(self, command, names, per_segment_max):
        """Archives these segments with a command; gives milliseconds per segment.

        The clock runs from the moment the server is given the command, so that starting a worker or a first
        connection counts, to the change of the last .ready into .done, which the file's ctime tells.
        """
        self.pause()
        self.mark(names)
        os.sync()
        quoted = command.replace("'", "''")
        begun = time.time()
        self.reload(f"{MEASURING}archive_command = '{quoted}'\n")
        try:
            wait_for(f"the archiver with '{command}'; see {tail(self.log)}",
                     lambda: not self.ready(), seconds=30 + len(names) * per_segment_max)
        finally:
            self.pause()
        ended = max(os.stat(self.status / f"{name}.done").st_ctime for name in names)
        if ended <= begun:
            raise Broken("the clock of this machine went backwards")
        return (ended - begun) * 1000 / len(names)
