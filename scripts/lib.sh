# shellcheck shell=bash
# What the scripts share: where the checkout is, how they speak, which PostgreSQL servers they know. Sourced, never run.

set -euo pipefail

pgwarm_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# Cargo and pip must not be confused by whatever directory the caller stands in.
cd "$pgwarm_root"

# Where rustup puts cargo; a shell that is no login shell may not have it in its PATH.
[[ ! -d ${HOME:-/nonexistent}/.cargo/bin ]] || PATH=$PATH:$HOME/.cargo/bin

# Where cargo builds; the fetched servers live below it, so that removing it removes them as well.
pgwarm_target=${CARGO_TARGET_DIR:-$pgwarm_root/target}
[[ $pgwarm_target == /* ]] || pgwarm_target=$pgwarm_root/$pgwarm_target

# The release that is fetched for every major version that Debian 12 has no package of.
declare -A pgwarm_fetched_release=([14]=14.23 [16]=16.15 [17]=17.11 [18]=18.6)

# The major version that Debian 12 packages.
pgwarm_debian_major=15

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
complain() { printf '%s: ERROR: %s\n' "${0##*/}" "$*" >&2; }
hint() { printf '%s: HINT: %s\n' "${0##*/}" "$*" >&2; }
die() {
    complain "$1"
    [[ $# -lt 2 ]] || hint "$2"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The directory of a major version's programs, whether or not it is there.
postgres_bin() {
    if [[ $1 == "$pgwarm_debian_major" ]]; then
        printf '/usr/lib/postgresql/%s/bin\n' "$1"
    else
        printf '%s/postgres/%s/bin\n' "$pgwarm_target" "$1"
    fi
}

# The directory that LD_LIBRARY_PATH must name for it; empty where the system's own linker path is enough.
postgres_lib() {
    [[ $1 == "$pgwarm_debian_major" ]] || printf '%s/postgres/%s/lib\n' "$pgwarm_target" "$1"
}

# True if the version in $1 is at least the version in $2.
version_at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }
