#!/bin/sh
# Store a Notion page in a file. Prints nothing if it works, so that cron sends mail only about failures.
#
#     examples/cron.sh PAGE FILE
#
# Sign in first: `uv run notion-oauth login`. The exit code is that of notion-oauth: 3 not signed in, 5 a temporary
# failure, 6 the login has ended. A failure of the request itself is 1; FILE then stays as it is.
set -eu
umask 077
clone=$(dirname "$0")/..
"$clone/.venv/bin/notion-oauth" token >/dev/null # refreshes if necessary; the program below takes the same login
"$clone/.venv/bin/python" "$clone/examples/script.py" notion-fetch "{\"id\": \"$1\"}" >"$2.new"
mv "$2.new" "$2"
