"""The contenders: how each is set up, what PostgreSQL is told to call, and where a segment lies afterwards.

All of them fsync the file and its folder before they answer, the no-op apart. All compressing ones use zstd 1.
"""

import glob
import json
import shutil

from machine import Broken, end, processes_with, run, wait_for


class Contender:
    """A way to archive. `count` bounds the segments of one drain, for those that are slow and keep no state."""

    name = ""
    count = None
    per_segment_max = 2.0

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.archive = folder / "archive"
        self.log = folder / "log"

    def prepare(self):
        """An empty archive."""
        self.remove()
        self.archive.mkdir(mode=0o700, parents=True)

    def remove(self):
        """Gives the room back."""
        self.settle()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self):
        """Begins anew with nothing fetched ahead; the archive stays."""
        self.settle()
        for entry in (self.folder / "spool").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def command(self):
        """What archive_command is."""
        raise NotImplementedError

    def settle(self):
        """Ends what it left running."""

    def stored(self, segment):
        """The file that holds a segment, if it is there."""
        found = glob.glob(f"{self.archive}/**/{segment}*", recursive=True)
        return found[0] if len(found) == 1 else None


class NoOp(Contender):
    """The floor: what the archiver itself costs."""

    name = "no-op"

    def command(self):
        return "/bin/true"

    def stored(self, segment):
        return self.server.wal / segment


class Copy(Contender):
    """What a careful administrator would write by hand."""

    name = "cp + fsync + rename"

    def command(self):
        there = f"{self.archive}/%f"
        return f"cp %p {there}.tmp && sync {there}.tmp && mv -n {there}.tmp {there} && sync {self.archive}"


class Rsync(Contender):
    """A connection per segment."""

    name = "rsync, ssh"
    count = 16

    def __init__(self, folder, server, sshd):
        super().__init__(folder, server)
        self.sshd = sshd

    def command(self):
        return f'rsync --fsync -e "ssh -F {self.sshd.config}" %p 127.0.0.1:{self.archive}/%f'


class PgBackRest(Contender):
    """pgBackRest, synchronous or asynchronous with two processes, local or over ssh."""

    def __init__(self, folder, server, asynchronous, sshd=None):
        super().__init__(folder, server)
        self.asynchronous, self.sshd = asynchronous, sshd
        self.name = f"pgBackRest zst-1, {'async' if asynchronous else 'sync'}{', ssh' if sshd else ''}"
        if sshd and not asynchronous:
            self.count = 16
        self.config = folder / "pgbackrest.conf"

    def prepare(self):
        super().prepare()
        (self.folder / "spool").mkdir()
        common = (
            f"[global]\nlog-level-file=off\nlog-level-console=warn\nlock-path={self.folder}/lock\n"
            f"log-path={self.folder}\nspool-path={self.folder}/spool\ncompress-type=zst\ncompress-level=1\n"
            f"process-max=2\narchive-async={'y' if self.asynchronous else 'n'}\n"
        )
        stanza = f"\n[bench]\npg1-path={self.server.data}\n"
        here = f"repo1-path={self.archive}\n"
        far = self.folder / "repository.conf"
        far.write_text(common + here + stanza)
        if self.sshd:
            here = (
                f"repo1-host=127.0.0.1\nrepo1-host-user={self.sshd.user}\nrepo1-host-port={self.sshd.port}\n"
                f"repo1-host-config={far}\nrepo1-host-cmd={shutil.which('pgbackrest')}\ncmd-ssh={self.sshd.program}\n"
            )
        self.config.write_text(common + here + stanza)
        run("pgbackrest", f"--config={far}", "--stanza=bench", "--no-online", "stanza-create")

    def words(self, *words):
        """A call of it."""
        return [shutil.which("pgbackrest"), f"--config={self.config}", "--stanza=bench", *words]

    def command(self):
        return " ".join(self.words("archive-push", "%p"))

    def settle(self):
        wait_for("pgBackRest's own processes to end", lambda: not processes_with(str(self.config)), seconds=60)

    def stored(self, segment):
        found = glob.glob(f"{self.archive}/archive/bench/*/*/{segment}-*.zst")
        return found[0] if len(found) == 1 else None


class Pgwarm(Contender):
    """pgwarm; `settings` stand before its defaults, `flags` are given to the programs."""

    def __init__(self, folder, server, name, programs, settings="", flags=(), sshd=None):
        super().__init__(folder, server)
        self.name, self.programs, self.settings, self.flags, self.sshd = name, programs, settings, flags, sshd

    def prepare(self):
        super().prepare()
        (self.folder / "spool").mkdir(mode=0o700)
        place = "nodes" if self.sshd else "own"
        own = f"[node.db1]\nhost = 127.0.0.1\npgdata = {self.server.data}\n"
        if self.sshd:
            other = (
                f"\n[node.db2]\nhost = 127.0.0.1\narchive = {self.archive}\nssh_port = {self.sshd.port}\n"
                f"ssh_key = {self.sshd.key}\nssh_known_hosts = {self.sshd.known_hosts}\nprograms = {self.programs}\n"
            )
        else:
            own, other = own + f"archive = {self.archive}\n", ""
        (self.folder / "pgwarm.ini").write_text(
            f"[cluster]\nname = main\n\n[archive]\nto = {place}\nack = all\ncompress = zstd\nlevel = 1\n{self.settings}\n"
            f"[restore]\nfrom = {place}\n\n{own}{other}"
        )
        (self.folder / "local.ini").write_text(f"[local]\nnode = db1\nspool = {self.folder}/spool\n")
        run(*self.words("archive-wal", "--init"))

    def words(self, program, *words):
        """A call of one of its programs."""
        given = [f"{self.programs}/{program}", "--config", f"{self.folder}/pgwarm.ini", "--local"]
        return [*given, f"{self.folder}/local.ini", *(self.flags if "--init" not in words else ()), *words]

    def command(self):
        return " ".join(self.words("archive-wal", "%p"))

    def worker(self):
        """What its worker says of itself; none where it has none."""
        if not (self.folder / "pgwarm.ini").exists():
            return None
        words = [word for word in self.words("archive-wal", "--status", "--json") if word != "--no-worker"]
        answer = run(*words, check=False)
        if answer.returncode != 0:
            raise Broken(f"archive-wal --status: {answer.stderr}")
        return json.loads(answer.stdout)["worker"]

    def settle(self):
        worker = self.worker()
        if worker:
            end(worker["process"])
            wait_for("the worker to end", lambda: not self.worker(), seconds=20)

    def stored(self, segment):
        found = glob.glob(f"{self.archive}/main/wal/*/{segment}.zst")
        return found[0] if len(found) == 1 else None
