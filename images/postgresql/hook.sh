#!/bin/sh
# What Debian's packages leave behind when they are installed: a cluster, and a key with a certificate
# that all guests would share. The agent makes its own.
set -eu
rm -rf "$ROOT/var/lib/postgresql" "$ROOT/etc/postgresql"
rm -f "$ROOT/etc/ssl/private/ssl-cert-snakeoil.key" "$ROOT/etc/ssl/certs/ssl-cert-snakeoil.pem"
