"""What watching costs: resident memory and processor time of a daemon that looks at five nodes every second, beside
repmgrd, which watches one, and Patroni, which manages one. All of them run at the same time, on the same machine."""

import os
import subprocess
import time
import urllib.request

from machine import Broken, end, free_port, memory_of, run, say, tail, wait_for
from report import Row
from server import Server

MIB = 1 << 20

# What a daemon has taken up while it started is not what it costs.
SETTLE = 15

# PostgreSQL as it comes, but for what replication and repmgr need.
SETTINGS = "wal_level = replica\nmax_wal_senders = 10\nhot_standby = on\n"


def measure(bench):
    """The rows: memory and processor time of each daemon."""
    scene = Scene(bench)
    try:
        scene.start()
        contenders = {name: process for name, process in scene.contenders() if process}
        time.sleep(SETTLE)
        memory, spent = watch(contenders, scene, rounds=3, seconds=10 if bench.quick else 30)
        scene.must_live()
    finally:
        scene.stop()
    limits = {True: (15, 0.5), False: (None, None)}
    rows = [Row("monitor", name, "MiB resident", memory[name], limit=limits["monitor" in name][0]) for name in contenders]
    return rows + [Row("monitor", name, "% of a core", spent[name], limit=limits["monitor" in name][1]) for name in contenders]


def watch(contenders, scene, rounds, seconds):
    """Resident MiB at the end of each round, and percent of a core in it."""
    memory = {name: [] for name in contenders}
    spent = {name: [] for name in contenders}
    for number in range(rounds):
        say(f"watching the watchers, round {number + 1} of {rounds}")
        before = {name: ticks(process) for name, process in contenders.items()}
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            time.sleep(min(5, seconds))
            scene.scrape()
        took = time.monotonic() - begun
        for name, process in contenders.items():
            spent[name].append((ticks(process) - before[name]) / os.sysconf("SC_CLK_TCK") / took * 100)
            memory[name].append(memory_of(process.pid, "VmRSS") / MIB)
    return memory, spent


def ticks(process):
    """The processor time that a process has used, in clock ticks."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii", errors="replace") as line:
        fields = line.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


class Scene:
    """A primary, a standby, one that follows that, a dr node and a witness; a little load; the daemons."""

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.work / "monitor"
        self.servers = {name: Server(bench.server.programs, self.folder / name) for name in ("db1", "db2", "db3")}
        self.ports = {name: free_port() for name in ("db1", "db2")}
        self.patroni = self.folder / "patroni"
        self.started = []

    def start(self):
        """Starts servers and load, and registers the nodes."""
        run("rm", "-rf", self.folder)
        self.folder.mkdir(parents=True)
        primary = self.servers["db1"]
        primary.make(1)
        preload = "shared_preload_libraries = 'repmgr'\n" if self.has_repmgr() else ""
        self.settings = SETTINGS + preload
        primary.start(self.settings)
        self.clone("db1", "db2")
        self.clone("db2", "db3")
        primary.client("pgbench", "-i", "-q", "-s", "1", "postgres")
        self.configure()
        run(*self.words("db1", "archive-wal"), "--init", "db1")
        quoted = " ".join(self.words("db1", "archive-wal"))
        primary.reload(f"{self.settings}archive_command = '{quoted} %p'\n")
        load = ["-h", primary.folder, "-U", "postgres", "-n", "-c", "1", "-R", "20", "-T", "3600", "postgres"]
        self.spawn("load", primary.programs / "pgbench", *load)

    def clone(self, upstream, name):
        """A standby of a server, started."""
        source, server = self.servers[upstream], self.servers[name]
        server.folder.mkdir()
        source.client("pg_basebackup", "-D", server.data, "-c", "fast", "-X", "stream", "--no-sync")
        with open(server.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(f"unix_socket_directories = '{server.folder}'\narchive_mode = off\n")
            conf.write(f"primary_conninfo = 'host={source.folder} user=postgres application_name={name}'\n")
        (server.data / "standby.signal").touch()
        server.start(self.settings)

    def configure(self):
        """The same shared file for all nodes, and a local one for those that run a daemon."""
        nodes = [f"[node.{name}]\nhost = 127.0.0.1\npgdata = {server.data}\nconninfo = {self.conninfo(name)}\n"
                 for name, server in self.servers.items()]
        (self.folder / "archive").mkdir()
        nodes[0] += f"archive = {self.folder}/archive\n"
        nodes += [f"[node.{name}]\nkind = {kind}\nhost = 127.0.0.1\n" for name, kind in (("dr1", "dr"), ("w", "witness"))]
        shared = "[cluster]\nname = bench\n[archive]\nto = own\nack = local\nalternate =\n[restore]\nfrom = own\n" \
                 "[relay]\nto =\n[monitor]\ninterval = 1s\n"
        (self.folder / "pgwarm.ini").write_text(shared + "\n".join(nodes), encoding="utf-8")
        for name, port in self.ports.items():
            text = f"[local]\nnode = {name}\nspool = {self.folder}/spool-{name}\n[monitor]\nhttp = {port}\n"
            (self.folder / f"{name}.ini").write_text(text, encoding="utf-8")

    def conninfo(self, name):
        """How a server is reached."""
        return f"host={self.servers[name].folder} user=postgres dbname=postgres"

    def words(self, node, program):
        """A program of ours on a node."""
        given = [self.bench.programs / program, "--config", self.folder / "pgwarm.ini", "--local"]
        return [str(word) for word in [*given, self.folder / f"{node}.ini"]]

    def contenders(self):
        """Each daemon that can be had, started."""
        yield "cluster-monitor, on the primary, 5 nodes", self.monitor("db1")
        yield "cluster-monitor, on a standby, 5 nodes", self.monitor("db2")
        yield "repmgrd, on a standby, 1 node", self.repmgrd() if self.has_repmgr() else self.lacks("repmgrd")
        found = os.access("/usr/bin/patroni", os.X_OK)
        yield "patroni, one server of its own", self.start_patroni() if found else self.lacks("patroni")

    def lacks(self, name):
        """Says that the table lacks a peer."""
        say(f"{name} is not installed; the table lacks it")

    def monitor(self, node):
        """Our daemon, once it answers."""
        process = self.spawn(f"monitor-{node}", *self.words(node, "cluster-monitor"), "run")
        wait_for(f"cluster-monitor on {node}", lambda: self.get(f"http://127.0.0.1:{self.ports[node]}/liveness"))
        return process

    def scrape(self):
        """What Prometheus does."""
        for port in self.ports.values():
            if not self.get(f"http://127.0.0.1:{port}/metrics"):
                raise Broken("the daemon answers no more")

    def get(self, address):
        """The answer of an address; none where it does not answer well."""
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.read()
        except OSError:
            return None

    def has_repmgr(self):
        """True where repmgr is installed for this PostgreSQL."""
        return (self.bench.server.programs / "repmgrd").exists()

    def repmgrd(self):
        """repmgrd on db2, looking every second and keeping history, as ours does."""
        primary = self.servers["db1"]
        primary.sql("CREATE USER repmgr SUPERUSER")
        primary.sql("CREATE DATABASE repmgr OWNER repmgr")
        for number, (name, server) in enumerate(self.servers.items(), 1):
            (self.folder / f"repmgr-{name}.conf").write_text(
                f"node_id={number}\nnode_name='{name}'\ndata_directory='{server.data}'\nfailover=manual\n"
                f"conninfo='host={server.folder} user=repmgr dbname=repmgr connect_timeout=2'\n"
                f"monitoring_history=yes\nmonitor_interval_secs=1\nrepmgrd_pid_file='{self.folder}/repmgrd.pid'\n"
                f"promote_command='/bin/true'\nfollow_command='/bin/true'\npg_bindir='{server.programs}'\n",
                encoding="utf-8")
        program = self.bench.server.programs / "repmgr"
        run(program, "-f", self.folder / "repmgr-db1.conf", "primary", "register")
        position = primary.sql("SELECT pg_current_wal_lsn()")
        standby = self.servers["db2"]
        wait_for("the standby", lambda: standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t")
        run(program, "-f", self.folder / "repmgr-db2.conf", "standby", "register", "--upstream-node-id=1")
        process = self.spawn("repmgrd", self.bench.server.programs / "repmgrd", "-f", self.folder / "repmgr-db2.conf",
                             "--daemonize=false")
        history = "SELECT count(*) > 1 FROM repmgr.monitoring_history"
        wait_for("repmgrd to watch",
                 lambda: primary.client("psql", "-XAtq", "-d", "repmgr", "-c", history).stdout.strip() == "t")
        return process

    def start_patroni(self):
        """Patroni with a server that it makes, and Raft instead of a store beside it."""
        self.patroni.mkdir()
        api, database, raft = free_port(), free_port(), free_port()
        (self.patroni / "patroni.yml").write_text(
            f"scope: bench\nname: one\nrestapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}\n"
            f"raft: {{self_addr: '127.0.0.1:{raft}', data_dir: '{self.patroni}/raft'}}\n"
            "bootstrap:\n  dcs: {loop_wait: 1, retry_timeout: 3, ttl: 20}\n  initdb: [{auth: trust}]\n"
            f"postgresql:\n  listen: '127.0.0.1:{database}'\n  connect_address: '127.0.0.1:{database}'\n"
            f"  data_dir: '{self.patroni}/data'\n  bin_dir: '{self.bench.server.programs}'\n"
            f"  pgpass: '{self.patroni}/pgpass'\n  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust']\n"
            f"  parameters: {{unix_socket_directories: '{self.patroni}'}}\n"
            "  authentication: {superuser: {username: postgres}, replication: {username: postgres}}\n",
            encoding="utf-8")
        process = self.spawn("patroni", "/usr/bin/patroni", self.patroni / "patroni.yml")
        try:
            wait_for("patroni", lambda: self.get(f"http://127.0.0.1:{api}/primary"), seconds=60)
        except Broken:
            say(f"patroni does not come up, the table lacks it; see {tail(self.folder / 'patroni.log')}")
            return None
        return process

    def spawn(self, name, *words):
        """Starts a program that is ended with the scene."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       cwd=self.folder)
        self.started.append((name, process))
        return process

    def must_live(self):
        """A daemon that has ended would cost nothing."""
        for name, process in self.started:
            if process.poll() is not None:
                raise Broken(f"{name} has ended with {process.returncode}; see {tail(self.folder / f'{name}.log')}")

    def stop(self):
        """Ends everything, Patroni with the server that it manages."""
        for _, process in reversed(self.started):
            end(process.pid)
        for _, process in reversed(self.started):
            process.wait(timeout=60)
        for server in reversed(self.servers.values()):
            server.stop()
        run("rm", "-rf", self.folder)
