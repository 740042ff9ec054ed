"""Changes of role: how long a client cannot write during a switchover, and what trigger-failover adds to a promotion.

Two servers on this machine, each behind a private sshd, each with an archive; programs as on two machines. A client
writes a row every 10 ms into whichever server takes it. The failover starts from the same stopped pair each time: the
primary is gone, its sshd too, and the standby has received everything; bare `pg_ctl promote` takes turns with us.
"""

import json
import os
import pwd
import shutil
import subprocess
import threading
import time

from machine import Broken, run, say, wait_for
from report import Row
from server import Server
from sshd import Sshd

# What a client may wait for a switchover, and what we may add to a promotion, in milliseconds.
PAUSE_MAX = 2000
ADDED_MAX = 500

# A client writes so often, in seconds.
EVERY = 0.01

SETTINGS = "checkpoint_timeout = 1d\nwal_keep_size = 1GB\nmax_wal_size = 1GB\nwal_log_hints = on\n"

CALLED = ["archive-wal", "restore-wal", "serve-archive", "trigger-failover", "flush-primary", "standby-init"]


class Node:
    """A server with everything a machine of its own would have."""

    def __init__(self, pair, name):
        self.pair, self.name, self.folder = pair, name, pair.folder / name
        self.server = Server(pair.postgres, self.folder / "server")
        self.sshd = Sshd(pair.folder / f"sshd-{name}", pwd.getpwuid(os.getuid()).pw_name)
        for made in ("archive", "spool", "bin"):
            (self.folder / made).mkdir(parents=True)
        self.local = self.folder / "pgwarm.local.ini"
        self.local.write_text(
            f"[local]\nnode = {name}\nspool = {self.folder}/spool\npg_bin = {pair.postgres}\n", encoding="utf-8")
        for called in CALLED:
            program = self.folder / "bin" / called
            program.write_text(f"#!/bin/sh\nexport PGWARM_CONFIG='{pair.config}' PGWARM_LOCAL='{self.local}'\n"
                               f"exec '{pair.programs / called}' \"$@\"\n", encoding="utf-8")
            program.chmod(0o755)

    def section(self):
        """Its part of the shared configuration."""
        return (f"[node.{self.name}]\nhost = 127.0.0.1\npgdata = {self.server.data}\narchive = {self.folder}/archive\n"
                f"conninfo = host={self.server.folder} user=postgres dbname=postgres\nprograms = {self.folder}/bin\n"
                f"ssh_port = {self.sshd.port}\nssh_user = {self.sshd.user}\nssh_key = {self.sshd.key}\n"
                f"ssh_known_hosts = {self.sshd.known_hosts}\n\n")

    def program(self, name, *words):
        """A call of one of our programs on this node."""
        return [self.folder / "bin" / name, *words]

    def call(self, name, *words):
        """The same, run to its end: what it printed."""
        return run(*self.program(name, *words)).stdout

    def settings(self):
        """What differs from one node to the next."""
        return (f"{SETTINGS}unix_socket_directories = '{self.server.folder}'\n"
                f"archive_command = '{self.folder}/bin/archive-wal %p'\n"
                f"restore_command = '{self.folder}/bin/restore-wal %f %p'\n")

    def kill(self):
        """The machine is gone at once."""
        run(self.server.programs / "pg_ctl", "-D", self.server.data, "-m", "immediate", "-w", "stop")
        self.sshd.stop()


class Pair:
    """A primary alpha and its standby beta, and how to have them again as they were."""

    def __init__(self, bench):
        self.folder = bench.work / "switchover"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.programs, self.postgres = bench.programs, bench.server.programs
        self.config = self.folder / "pgwarm.ini"
        self.alpha, self.beta = Node(self, "alpha"), Node(self, "beta")
        self.nodes = [self.alpha, self.beta]
        self.write_config()
        self.make()

    def write_config(self):
        """The shared file; an sshd that was started anew has another port."""
        self.config.write_text("[cluster]\nname = bench\n\n" + "".join(node.section() for node in self.nodes),
                               encoding="utf-8")

    def make(self):
        """Makes both, and keeps them as they are then."""
        alpha, beta = self.alpha.server, self.beta.server
        alpha.make(16, "--data-checksums")
        with open(alpha.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write("include_if_exists 'pgwarm.conf'\n")
        alpha.configure(self.alpha.settings())
        self.alpha.call("archive-wal", "--init")
        alpha.start(self.alpha.settings())
        alpha.sql("CREATE TABLE client (n bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
        beta.folder.mkdir()
        alpha.client("pg_basebackup", "-D", beta.data, "-c", "fast", "--no-sync")
        beta.configure(self.beta.settings())
        (beta.data / "standby.signal").touch()
        self.beta.call("standby-init", "--adopt", "--upstream", "alpha")
        self.stop()
        for node in self.nodes:
            shutil.copytree(node.folder, self.folder / f"{node.name}.kept", symlinks=True, ignore=self.sockets)

    @staticmethod
    def sockets(_folder, names):
        """What cannot be copied and is made anew."""
        return [name for name in names if name.startswith(".s.PGSQL") or name.endswith(".sock")]

    def stop(self):
        """Stops both servers, the primary last, so that the standby has everything."""
        for node in sorted(self.nodes, key=lambda node: (node.server.data / "standby.signal").exists(), reverse=True):
            node.server.stop()

    def end(self):
        """Leaves nothing running."""
        self.stop()
        for node in self.nodes:
            node.sshd.stop()

    def again(self):
        """As they were when they were made, and running."""
        self.stop()
        for node in self.nodes:
            shutil.rmtree(node.folder)
            shutil.copytree(self.folder / f"{node.name}.kept", node.folder, symlinks=True)
            node.server.data.chmod(0o700)
            if not node.sshd.answers():
                node.sshd = Sshd(self.folder / f"sshd-{node.name}", node.sshd.user)
        self.write_config()
        for node in self.nodes:
            node.server.start(node.settings())
        streams = "SELECT count(*) FROM pg_stat_replication"
        wait_for("the standby to stream", lambda: self.alpha.server.sql(streams) == "1")

    def write(self):
        """Rows, all of them received."""
        self.alpha.server.sql("INSERT INTO client SELECT FROM generate_series(1, 1000)")
        end = self.alpha.server.sql("SELECT pg_current_wal_flush_lsn()")
        wait_for("the standby to have everything",
                 lambda: self.beta.server.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'") == "t")


class Client:
    """Writes a row every 10 ms over one session, or over a new one where that is lost; remembers when each was
    acknowledged."""

    def __init__(self, pair):
        hosts = ",".join(str(node.server.folder) for node in pair.nodes)
        self.words = [pair.postgres / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                      f"host={hosts} user=postgres dbname=postgres target_session_attrs=read-write"]
        self.acknowledged, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        wait_for("the client to write", lambda: len(self.acknowledged) > 20)

    def work(self):
        """Until it is told to stop."""
        while not self.ended.is_set():
            with subprocess.Popen([str(word) for word in self.words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, bufsize=1) as session:
                try:
                    while not self.ended.is_set():
                        session.stdin.write("INSERT INTO client DEFAULT VALUES RETURNING n;\n")
                        if not session.stdout.readline():
                            break
                        self.acknowledged.append(time.perf_counter())
                        time.sleep(EVERY)
                    session.stdin.close()
                except OSError:
                    pass
                finally:
                    session.kill()

    def stop(self):
        """The longest pause between two rows, in milliseconds."""
        count = len(self.acknowledged)
        wait_for("the client to go on", lambda: len(self.acknowledged) > count + 20)
        self.ended.set()
        self.thread.join()
        pairs = zip(self.acknowledged, self.acknowledged[1:])
        return max(later - earlier for earlier, later in pairs) * 1000


def measure(bench):
    """The rows of the table."""
    pair = Pair(bench)
    try:
        pauses, told, phases = switchovers(pair, bench.rounds)
        bare, until_write, until_end = promotions(pair, bench.rounds)
    finally:
        pair.end()
    shutil.rmtree(pair.folder)
    say("the last switchover: " + ", ".join(phases))
    name = "trigger-failover"
    return [
        Row("switchover", f"{name} --switchover, pause of a client", "ms", pauses, limit=PAUSE_MAX),
        Row("switchover", f"{name} --switchover, closed to new clients", "ms", told, limit=PAUSE_MAX),
        Row("failover", "pg_ctl promote, until a row is written", "ms", bare),
        Row("failover", f"{name}, until a row is written", "ms", until_write, "pg_ctl promote", bare, ADDED_MAX, True),
        Row("failover", f"{name}, until it has ended", "ms", until_end, "pg_ctl promote", bare, ADDED_MAX, True),
    ]


def switchovers(pair, rounds):
    """There and back under load: what the client saw, and what the program said."""
    pauses, told, phases = [], [], []
    pair.again()
    pair.write()
    for turn in range(2 * rounds):
        client = Client(pair)
        node = pair.nodes[(turn + 1) % 2]
        report = json.loads(node.call("trigger-failover", "--switchover", "--json"))
        pauses.append(client.stop())
        told.append(report["outage_ms"])
        phases = [f"{phase['step']} {phase['took_ms']}" for phase in report["phases"]]
    return pauses, told, phases


def promotions(pair, rounds):
    """By turns: bare, and ours. How long until a row was written, and until the program had ended."""
    samples = ([], [], [])
    for _ in range(rounds):
        bare = [pair.postgres / "pg_ctl", "-D", pair.beta.server.data, "-w", "promote"]
        samples[0].append(promotion(pair, bare)[0])
        written, ended = promotion(pair, pair.beta.program("trigger-failover"))
        samples[1].append(written)
        samples[2].append(ended)
    return samples


def promotion(pair, words):
    """The primary is gone, and the standby is promoted by these words."""
    pair.again()
    pair.write()
    pair.alpha.kill()
    written = []
    begun = time.perf_counter()
    with subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as promoting:
        writer = threading.Thread(target=write_once, args=(pair.beta.server, written), daemon=True)
        writer.start()
        said, _ = promoting.communicate(timeout=120)
        ended = time.perf_counter()
    if promoting.returncode != 0:
        raise Broken(f"the promotion failed: {said}")
    writer.join(30)
    if not written:
        raise Broken("nobody could write after the promotion")
    return (written[0] - begun) * 1000, (ended - begun) * 1000


def write_once(server, written):
    """Tries until a row is in."""
    end = time.monotonic() + 60
    words = [server.programs / "psql", "-X", "-q", "-h", server.folder, "-U", "postgres", "-d", "postgres", "-c",
             "INSERT INTO client DEFAULT VALUES"]
    while time.monotonic() < end:
        if run(*words, check=False).returncode == 0:
            written.append(time.perf_counter())
            return
