"""What scripts/bench runs, as the user of the servers: makes the WAL, lets the contenders take turns, reports."""

import argparse
import os
import pathlib
import platform
import pwd
import shutil
import signal
import sys

import archiving
import backup
import calls
import monitor
import recovery
import report
import restoring
import switchover
from machine import Broken, run, say
from server import MEASURING, Server
from sshd import Sshd

GROUPS = ["local", "ssh", "restore", "restore-ssh", "ready", "memory", "backup", "recovery", "monitor", "switchover"]

# Those that need WAL to archive.
ON_WAL = GROUPS[:6]


class Bench:
    """What all measurements share."""

    def __init__(self, options):
        self.work = pathlib.Path(options.work)
        self.programs = self.work / "bin"
        self.server = Server(options.postgres, self.work / "server")
        self.pgbackrest, self.rsync = shutil.which("pgbackrest"), shutil.which("rsync")
        self.quick = options.quick
        self.rounds = options.rounds or (1 if options.quick else 3)
        self.calls = 10 if options.quick else 40
        self.count = options.segments
        self.backup_size = options.backup_size or (256 if options.quick else 2048)
        self.segments = []
        self.started_sshd = None

    def sshd(self):
        """The private sshd, started for the first that needs it."""
        if not self.started_sshd:
            self.started_sshd = Sshd(self.work / "sshd", pwd.getpwuid(os.getuid()).pw_name)
        return self.started_sshd

    def prepare(self):
        """Makes the WAL, or takes what the last run in the same directory has left."""
        made = self.server.folder / "segments"
        names = made.read_text().split() if made.exists() else []
        if len(names) < self.count:
            self.server.stop()
            shutil.rmtree(self.server.folder, ignore_errors=True)
            self.server.make()
            names = self.server.make_wal(self.count)
            made.write_text("\n".join(names))
        self.segments = names[:self.count]
        # Otherwise the kernel writes out the new WAL while the first contender is measured.
        os.sync()
        self.server.stop()
        self.server.start(MEASURING)

    def measure(self, group):
        """The rows of one measurement."""
        say(f"measuring {group}")
        if group == "local":
            return archiving.measure(self, group, *archiving.local_contenders(self))
        if group == "ssh":
            return archiving.measure(self, group, *archiving.ssh_contenders(self))
        return {"restore": restoring.single_calls, "restore-ssh": restoring.over_ssh,
                "ready": calls.ready_answers, "memory": calls.memory, "backup": backup.measure,
                "recovery": recovery.measure, "monitor": monitor.measure,
                "switchover": switchover.measure}[group](self)

    def facts(self):
        """What a reader must know to make sense of the numbers."""
        peers = [run("pgbackrest", "version").stdout.strip()] if self.pgbackrest else []
        peers += [run("rsync", "--version").stdout.splitlines()[0]] if self.rsync else []
        for program in ("/usr/bin/repmgr", "/usr/bin/patroni"):
            peers += [run(program, "--version").stdout.strip()] if os.access(program, os.X_OK) else []
        disk = run("stat", "-f", "-c", "%T", self.work).stdout.strip()
        return {
            "pgwarm": run(self.programs / "archive-wal", "--version").stdout.strip(),
            "peers": "; ".join(peers) or "none",
            "server": run(self.server.programs / "postgres", "--version").stdout.strip(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
            "file system": f"{disk} at {self.work}",
            "segments": f"{self.count} of 16 MiB, {self.rounds} rounds",
            "backups": f"of {self.backup_size} MiB",
        }

    def stop(self):
        """Ends what was started."""
        self.server.stop()
        if self.started_sshd:
            self.started_sshd.stop()


def main():
    """Reads the options and runs what they ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=GROUPS)
    parser.add_argument("--segments", type=int, default=96)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--backup-size", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options)
    try:
        groups = [group for group in GROUPS if group in (options.only or GROUPS)]
        if any(group in ON_WAL for group in groups):
            bench.prepare()
        rows = [row for group in groups for row in bench.measure(group)]
        print((report.as_json if options.json else report.table)(rows, bench.facts()))
    except Broken as broken:
        print(f"bench: ERROR: {broken}", file=sys.stderr)
        return 1
    finally:
        bench.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
