#!/bin/sh
# Makes a database a cell of a Citus cluster: the roles, an empty database of that name on every
# server, the extension in each, and the cluster known to the first. It may run again.
# usage: init.sh DATABASE WORKER COORDINATOR OTHER_WORKER...    hosts, or host:port
#
# The tables of payments get to WORKER, once `payment-proxy migrate` makes them. Reads PGUSER,
# PGPASSWORD (the superuser, the same everywhere), PAYMENT_PROXY_PASSWORD,
# PAYMENT_PROXY_OWNER_PASSWORD and AUDITOR_PASSWORD; init.sql is beside it, or in INIT_SQL.
set -eu
database=$1 worker=$2 coordinator=$3
shift 2
init=${INIT_SQL:-$(dirname "$0")/init.sql}

host() { echo "${1%:*}"; }
port() { case $1 in *:*) echo "${1##*:}" ;; *) echo 5432 ;; esac; }

# on SERVER DATABASE ARGUMENTS...: psql there
on() {
    at=$1 name=$2
    shift 2
    PGHOST=$(host "$at") PGPORT=$(port "$at") PGDATABASE=$name \
        psql --no-psqlrc --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1 "$@"
}

for server; do
    until PGHOST=$(host "$server") PGPORT=$(port "$server") pg_isready --quiet --timeout=2; do
        sleep 1
    done
    # init.sql calls its database payments. Each server is told by itself, also of a cluster.
    sed "s/payments/$database/g" "$init" |
        PGOPTIONS="-c citus.enable_ddl_propagation=off" on "$server" postgres --file=-
    # A server logs in at another one as the role that it serves.
    on "$server" "$database" --file=- <<'SQL'
\getenv superuser PGUSER
\getenv superuser_password PGPASSWORD
\getenv service_password PAYMENT_PROXY_PASSWORD
\getenv owner_password PAYMENT_PROXY_OWNER_PASSWORD
\getenv auditor_password AUDITOR_PASSWORD
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS citus;
BEGIN;
DELETE FROM pg_dist_authinfo;
INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo)
SELECT 0, l.role,
    concat_ws('=', 'password',
        '''' || replace(replace(l.password, '\', '\\'), '''', '\''') || '''')
FROM (VALUES (:'superuser', :'superuser_password'), ('payment_proxy', :'service_password'),
    ('payment_proxy_owner', :'owner_password'), ('auditor', :'auditor_password')
) AS l (role, password);
COMMIT;
SQL
done

# place SERVER: as two values in SQL
place() { echo "'$(host "$1")', $(port "$1")"; }

shift
on "$coordinator" "$database" --command="
    SELECT citus_set_coordinator_host($(place "$coordinator"))
    WHERE NOT EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0)"
for server; do
    # Once the tables are there, every worker may have them.
    on "$coordinator" "$database" --command="SELECT citus_add_node($(place "$server"))" --command="
        SELECT citus_set_node_property($(place "$server"), 'shouldhaveshards',
            EXISTS (SELECT FROM pg_dist_partition)
                OR ($(place "$server")) = ($(place "$worker")))"
done
