"""A private sshd on loopback, run by the user who measures, with keys of its own; the machine's own stays untouched."""

import os
import socket
import subprocess

from machine import free_port, run, wait_for


class Sshd:
    """Runs until stop(); `config` is a client configuration that reaches it as 127.0.0.1."""

    def __init__(self, folder, user):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port, self.user = free_port(), user
        self.key, self.known_hosts, self.config = folder / "client_key", folder / "known_hosts", folder / "ssh_config"
        for key in (self.key, folder / "host_key"):
            if not key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        (folder / "authorized_keys").write_text((folder / "client_key.pub").read_text())
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self.config.write_text(
            f"Host 127.0.0.1\n  Port {self.port}\n  User {user}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
        )
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\nPrintMotd no\n"
        )
        # A program that takes the way to its ssh as one word gets this one.
        self.program = folder / "ssh"
        self.program.write_text(f'#!/bin/sh\nexec ssh -F {self.config} "$@"\n')
        os.chmod(self.program, 0o755)
        with open(folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )
        wait_for("the sshd", self.answers, seconds=20)

    def answers(self):
        """True once it listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def stop(self):
        """Ends it."""
        self.process.terminate()
        self.process.wait()
