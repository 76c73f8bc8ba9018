#!/bin/sh
# Runs search.py on a Ray cluster, and follows its output: submit.sh [search.py's options].
#
#   RAY_API_SERVER_ADDRESS   the cluster's dashboard; default http://127.0.0.1:8265, which is the
#                            head node itself, or the other end of `ray dashboard cluster.yaml`
#   SECRETS                  file on the head node with lines like LRBENCH_DATABASE_URL='postgresql://…';
#                            default ~/.lrbench.env there. Read by the search alone, if it exists.
#
# The database's URL holds a password, so it is not given here: whatever goes along with a job
# (--runtime-env-json '{"env_vars": …}') is shown to everybody by `ray job list` and the dashboard, and
# handed to every process on every node. Only the search itself writes to the database.
set -eu
cd "$(dirname "$0")"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"
SECRETS="${SECRETS:-\$HOME/.lrbench.env}"
exec ray job submit --working-dir . -- sh -c \
    "if [ -f \"$SECRETS\" ]; then set -a; . \"$SECRETS\"; set +a; fi; exec python search.py \"\$@\"" \
    search "$@"
