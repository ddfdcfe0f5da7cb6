#!/bin/bash
# Build a guest image: Debian 12, the agent, one database engine. Needs root, no network but what apt
# and pip are configured for, no KVM. See doc/source/admin/images.rst.
# shellcheck disable=SC2012,SC2016 # names of packages are plain; apt and mmdebstrap expand theirs themselves
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: tools/build-image.sh --datastore NAME --output FILE.qcow2 [options]

  --datastore NAME    a directory below images/: mariadb, postgresql, redis, valkey, mongodb
  --output FILE       the image; FILE.json beside it says what is in it
  --size SIZE         size of its disk, which the guest grows to that of its flavor (2560M)
  --wheel FILE        take this wheel of the service instead of building it from this tree
  --packages DIR      install the Debian packages (*.deb) in this directory too: valkey and mongodb,
                      which Debian 12 lacks, need their makers' own for Debian 12
  --cache DIR         where the base system is kept for the next image (/var/cache/trove-images)
  --no-cache          build the base system anew
  --install-tools     have apt install what this program needs
  --debug-shell       for the builder's own tests: a root shell on the serial console. Never for use
TEXT
}

die() { echo "build-image: $*" >&2; exit 1; }
say() { printf 'build-image: %4ds %s\n' "$SECONDS" "$*"; }

HERE=$(dirname "$(dirname "$(readlink -f "$0")")")
TOOLS=(mmdebstrap extlinux qemu-utils e2fsprogs python3-pip-whl python3-pip)
DATASTORE='' OUTPUT='' SIZE=2560M WHEEL='' PACKAGES_DIR='' CACHE=/var/cache/trove-images USE_CACHE=yes DEBUG=''
while [ $# -gt 0 ]; do
    case $1 in
        --datastore) DATASTORE=${2:?}; shift 2 ;;
        --output) OUTPUT=$(readlink -m "${2:?}"); shift 2 ;;
        --size) SIZE=${2:?}; shift 2 ;;
        --wheel) WHEEL=$(readlink -e "${2:?}") || die "there is no $2"; shift 2 ;;
        --packages) PACKAGES_DIR=$(readlink -e "${2:?}") || die "there is no $2"; shift 2 ;;
        --cache) CACHE=$(readlink -m "${2:?}"); shift 2 ;;
        --no-cache) USE_CACHE=; shift ;;
        --install-tools) apt-get install -y -q --no-install-recommends "${TOOLS[@]}"; shift ;;
        --debug-shell) DEBUG=yes; shift ;;
        -h|--help) usage; exit 0 ;;
        *) usage >&2; die "what is $1?" ;;
    esac
done
if [ -z "$DATASTORE" ] || [ -z "$OUTPUT" ]; then usage >&2; exit 2; fi
[ "$(id -u)" = 0 ] || die "only root can make a file system tree of root's"
ENGINE=$HERE/images/$DATASTORE
[ -f "$ENGINE/engine.conf" ] || die "no image is known for $DATASTORE: images/$DATASTORE/engine.conf is missing"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8

# shellcheck disable=SC1091
. "$ENGINE/engine.conf"
# shellcheck disable=SC2154
: "$manager" "$port" "$user" "$units" "$has_template" "$version_command" "${own_packages:=}"
OWN=()
[ -z "$PACKAGES_DIR" ] || mapfile -t OWN < <(find "$PACKAGES_DIR" -maxdepth 1 -name '*.deb' | sort)
for package in $own_packages; do
    for file in "${OWN[@]}"; do
        [ "$(dpkg-deb --field "$file" Package)" != "$package" ] || continue 2
    done
    die "Debian 12 has no package $package: name a directory that it is in, as *.deb, by --packages"
done
for program in mmdebstrap extlinux qemu-img mke2fs; do
    command -v $program >/dev/null || die "$program is missing: apt-get install ${TOOLS[*]}, or --install-tools"
done

WORK=$(mktemp -d /var/tmp/trove-image.XXXXXX)
ROOT=$WORK/root
MOUNTED=()
finish() {
    local target
    for target in "${MOUNTED[@]}"; do umount "$target" 2>/dev/null || umount -l "$target" || true; done
    rm -rf --one-file-system "$WORK"
}
trap finish EXIT
umask 022

words() { grep -hv -e '^#' -e '^$' "$@"; }
inside() { chroot "$ROOT" env -i PATH="$PATH" HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

# The mirrors that this machine's apt uses, of Debian 12 alone.
sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        awk '$3 ~ /^bookworm(-security|-updates)?$/ && $4 == "main"' | sort -u
}

mount_system() {
    mount -t proc proc "$ROOT/proc"; MOUNTED=("$ROOT/proc" "${MOUNTED[@]}")
    mount -t tmpfs tmpfs "$ROOT/run"; MOUNTED=("$ROOT/run" "${MOUNTED[@]}")
    mount -t tmpfs tmpfs "$ROOT/tmp"; MOUNTED=("$ROOT/tmp" "${MOUNTED[@]}")
    mount --bind /dev "$ROOT/dev"; MOUNTED=("$ROOT/dev" "${MOUNTED[@]}")
}

unmount_system() {
    local target
    for target in "${MOUNTED[@]}"; do umount "$target"; done
    MOUNTED=()
}

# pip inside the tree, with this machine's configuration: index, certificates, directories of wheels.
pip_inside() {
    local variables=(PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore) line path
    while IFS= read -r line; do variables+=("$line"); done < <(
        env | grep -iE '^[a-z]*_proxy=' || true
        python3 -m pip config list | sed -nE "s/^(:env:|[a-z]+)\.([a-z-]+)='(.*)'$/\2=\3/p" |
            awk -F= '{ name = toupper($1); gsub("-", "_", name); print "PIP_" name substr($0, length($1) + 1) }')
    # indexes and wheels that are directories of this machine, and its certificates
    for path in $(printf '%s\n' "${variables[@]}" | grep -oE '(=|file://| )/[^ ,]+' | sed -E 's/^(=|file:\/\/| )//'); do
        [ -d "$path" ] || continue
        path=$(readlink -f "$path"); path=/$(cut -d/ -f2,3 <<<"$path")
        mountpoint -q "$ROOT$path" && continue
        mkdir -p "$ROOT$path"
        mount --bind "$path" "$ROOT$path"; MOUNTED=("$ROOT$path" "${MOUNTED[@]}"); BOUND+=("$path")
    done
    cp /etc/ssl/certs/ca-certificates.crt "$ROOT/run/builder-ca.crt"
    cp -L /etc/resolv.conf "$ROOT/etc/resolv.conf"
    inside "${variables[@]}" PIP_CERT=/run/builder-ca.crt /opt/trove/bin/python /run/pip.whl/pip "$@"
}

build_debian() {
    say "Debian packages"
    [ -n "$(sources)" ] || die "apt of this machine knows no Debian 12 (bookworm) archive"
    local packages
    packages=$(words "$HERE/images/base/packages" | paste -sd,)
    sources | mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" \
        --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/lintian/*' --dpkgopt=force-unsafe-io \
        --setup-hook='mkdir -p "$1/etc/tiny-initramfs"; printf "do_symlinks=no\n" > "$1/etc/kernel-img.conf"' \
        --setup-hook="cp '$HERE/images/base/files/etc/tiny-initramfs/'* \"\$1/etc/tiny-initramfs/\"" \
        bookworm "$ROOT" -
    rm -f "$ROOT"/var/cache/apt/*.bin "$ROOT"/var/lib/apt/lists/*_Packages
}

build_agent_environment() {
    say "requirements of the agent"
    mount_system
    inside python3 -m venv --without-pip /opt/trove
    cp -r "$(pip_wheel)" "$ROOT/run/pip.whl"
    BOUND=()
    pip_inside install -qq --only-binary :all: -r /dev/stdin < "$HERE/images/guest-requirements.txt"
    unmount_system
    local folder
    for folder in "${BOUND[@]}"; do (cd "$ROOT" && rmdir -p --ignore-fail-on-non-empty ".$folder"); done
}

# cached NAME FUNCTION INPUT: have in ROOT what FUNCTION makes of it, from the cache where it is.
cached() {
    local name=$1 function=$2 file
    KEY=$(sha256sum <<<"$KEY $3" | cut -c1-16)
    file=$CACHE/$name-$KEY.tar.zst
    if [ -n "$USE_CACHE" ] && [ -f "$file" ]; then
        FOUND=$file
        return
    fi
    [ -z "$FOUND" ] || unpack
    $function
    tar -C "$ROOT" --zstd --numeric-owner --xattrs --one-file-system -cf "$file.part.$$" .
    mv "$file.part.$$" "$file"
}

unpack() {
    say "$FOUND"
    tar -C "$ROOT" --zstd --numeric-owner --xattrs -xf "$FOUND"
    FOUND=
}

# A pip to run from its wheel: the one that this machine's Python brings along.
pip_wheel() {
    local wheel
    wheel=$(ls /usr/share/python-wheels/pip-*.whl 2>/dev/null | tail -1)
    [ -n "$wheel" ] || wheel=$(python3 -c 'import ensurepip, pathlib
print(*sorted((pathlib.Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")))' | awk '{print $NF}')
    [ -f "$wheel" ] || die "no wheel of pip on this machine: apt-get install python3-pip-whl"
    echo "$wheel"
}

mkdir -p "$CACHE" "$ROOT"
KEY='' FOUND=''
cached debian build_debian "$(sources; words "$HERE/images/base/packages"; declare -f build_debian)"
cached agent build_agent_environment "$(words "$HERE/images/guest-requirements.txt"; declare -f build_agent_environment)"
[ -z "$FOUND" ] || unpack

say "engine: $DATASTORE"
mount_system
printf '#!/bin/sh\nexit 101\n' > "$ROOT/usr/sbin/policy-rc.d"; chmod 755 "$ROOT/usr/sbin/policy-rc.d"
sources > "$ROOT/etc/apt/sources.list"
cp -L /etc/resolv.conf "$ROOT/etc/resolv.conf"
mapfile -t PACKAGES < <(words "$ENGINE/packages")
for file in "${OWN[@]}"; do
    cp "$file" "$ROOT/run/"
    PACKAGES+=("/run/$(basename "$file")")
done
inside apt-get update -q=2
inside apt-get install -q=2 -y --no-install-recommends "${PACKAGES[@]}" >"$WORK/apt.log" 2>&1 ||
    { tail -20 "$WORK/apt.log" >&2; die "the packages of $DATASTORE cannot be installed"; }
for unit in $units; do ln -sf /dev/null "$ROOT/etc/systemd/system/$unit"; done

say "agent"
if [ -z "$WHEEL" ]; then
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$WORK/wheel" "$HERE"
    WHEEL=$(ls "$WORK"/wheel/trove-*.whl)
fi
cp -r "$(pip_wheel)" "$ROOT/run/pip.whl"
cp "$WHEEL" "$ROOT/run/"
inside PIP_NO_INDEX=1 /opt/trove/bin/python /run/pip.whl/pip install --quiet --no-deps "/run/$(basename "$WHEEL")"
# the agent needs these out of the many scripts that libraries bring
find "$ROOT/opt/trove/bin" -type f ! -name 'trove-guest*' ! -name 'activate*' ! -name 'python*' -delete
inside /opt/trove/bin/python -m compileall -q -j 0 /opt/trove/lib
AGENT_VERSION=$(inside /opt/trove/bin/python -c 'from importlib import metadata; print(metadata.version("trove"))')
ENGINE_VERSION=$(inside sh -c "$version_command" | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -1)
inside /opt/trove/bin/python -I -c 'import trove.cmd.guestagent, trove.guestagent.boot.init'

say "files"
cp -r --no-preserve=ownership "$HERE/images/base/files/." "$ROOT/"
[ -d "$ENGINE/files" ] && cp -r --no-preserve=ownership "$ENGINE/files/." "$ROOT/"
while IFS= read -r unit; do ln -sfn /dev/null "$ROOT/etc/systemd/system/$unit"; done < <(words "$HERE/images/base/masked-units")
for unit in trove-guest-init trove-guestagent trove-grow-root systemd-networkd acpid; do
    inside systemctl enable --quiet $unit.service
done
printf '127.0.0.1 localhost\n::1 localhost\n' > "$ROOT/etc/hosts"
mkdir -p "$ROOT/usr/share/trove" "$ROOT/var/lib/trove-data"
install -d -m 700 "$ROOT/etc/trove-guestagent"
TEMPLATE=
if [ "$has_template" = yes ]; then
    TEMPLATE=/usr/share/trove/template
    inside /opt/trove/bin/python -I -m trove.cmd.guestagent_template --manager "$manager" --target $TEMPLATE --user "$user" >/dev/null
fi
cat > "$ROOT/etc/trove-guestagent/image.conf" <<TEXT
[DEFAULT]
use_stderr = true
[guestagent]
key_file = /etc/trove-guestagent/instance.key
state_dir = /var/lib/trove-guestagent
mount_point = /var/lib/trove-data
template_dir = $TEMPLATE
engine_user = $user
TEXT
printf '{"datastore": "%s", "version": "%s", "manager": "%s", "port": %d, "more_ports": [%s], "agent_version": "%s"}\n' \
    "$DATASTORE" "$ENGINE_VERSION" "$manager" "$port" "${more_ports:-}" "$AGENT_VERSION" > "$ROOT/usr/share/trove/image.json"
[ -x "$ENGINE/hook.sh" ] && ROOT=$ROOT "$ENGINE/hook.sh"

say "boot"
KERNEL=$(basename "$(ls -v "$ROOT"/boot/vmlinuz-* | tail -1)"); KERNEL=${KERNEL#vmlinuz-}
inside mktirfs -o "/boot/initrd.img-$KERNEL" "$KERNEL" >/dev/null
ROOT_UUID=$(cat /proc/sys/kernel/random/uuid)
echo "UUID=$ROOT_UUID / ext4 noatime,errors=remount-ro 0 0" > "$ROOT/etc/fstab"
echo trove > "$ROOT/etc/hostname"
mkdir -p "$ROOT/boot/extlinux"
cat > "$ROOT/boot/extlinux/extlinux.conf" <<TEXT
SERIAL 0 115200
PROMPT 0
TIMEOUT 1
DEFAULT trove
LABEL trove
  LINUX /boot/vmlinuz-$KERNEL
  INITRD /boot/initrd.img-$KERNEL
  APPEND root=UUID=$ROOT_UUID rw console=tty0 console=ttyS0 net.ifnames=0 quiet loglevel=3 systemd.show_status=false ${DEBUG:+systemd.debug_shell=ttyS0}
TEXT
if [ -n "$DEBUG" ]; then
    say "WARNING: this image has a root shell on its console"
    rm -f "$ROOT/etc/systemd/system/debug-shell.service"
fi

say "cleaning"
inside passwd --quiet --lock root
sed -i 's/^root:[^:]*:/root:!*:/' "$ROOT/etc/shadow"
inside apt-get clean
rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/*.bin "$ROOT"/var/cache/debconf/*-old "$ROOT"/var/log/*.log \
    "$ROOT"/var/log/apt "$ROOT"/var/lib/mysql "$ROOT"/usr/sbin/policy-rc.d "$ROOT"/usr/share/doc/* "$ROOT"/usr/share/man/* \
    "$ROOT"/etc/ssh "$ROOT"/root/.cache "$ROOT"/etc/apt/sources.list "$ROOT"/var/lib/dbus/machine-id
rm -f "$ROOT/etc/machine-id"; : > "$ROOT/etc/machine-id"
printf '# a guest asks no name server\noptions timeout:1 attempts:1\n' > "$ROOT/etc/resolv.conf"
unmount_system
[ -x "$ROOT/usr/sbin/sshd" ] && die "there is an SSH server in the image"
awk -F: '$2 !~ /^[!*]/ {print $1}' "$ROOT/etc/shadow" | grep . && die "these accounts can log in"

say "disk of $SIZE"
rm -f "$WORK/disk"; truncate -s "$SIZE" "$WORK/disk"
# what extlinux can read; -d fills it, no partition is in the way of growing it
mke2fs -q -F -t ext4 -L trove-root -U "$ROOT_UUID" -m 1 -O '^64bit,^metadata_csum' -E lazy_itable_init=1 -d "$ROOT" "$WORK/disk"
mkdir "$WORK/mnt"
mount -o loop "$WORK/disk" "$WORK/mnt"; MOUNTED=("$WORK/mnt")
extlinux --install "$WORK/mnt/boot/extlinux" >/dev/null 2>&1
# nothing is ever written below the mount point while the volume is not there, not even by root
chattr +i "$WORK/mnt/var/lib/trove-data"
umount "$WORK/mnt"; MOUNTED=()
qemu-img convert -c -O qcow2 "$WORK/disk" "$OUTPUT.part"
mv "$OUTPUT.part" "$OUTPUT"
SUM=$(sha256sum "$OUTPUT" | cut -d' ' -f1)
printf '{"datastore": "%s", "version": "%s", "manager": "%s", "agent_version": "%s", "sha256": "%s"}\n' \
    "$DATASTORE" "$ENGINE_VERSION" "$manager" "$AGENT_VERSION" "$SUM" > "$OUTPUT.json"
MIB=$(( $(stat -c %s "$OUTPUT") / 1048576 ))
say "$OUTPUT: $MIB MiB, $(du -sm --one-file-system "$ROOT" | cut -f1) MiB unpacked, $DATASTORE $ENGINE_VERSION"
[ "$MIB" -le 700 ] || die "the image is larger than 700 MiB"
