#!/bin/sh
# Runs once, when the volume of the database is empty: the database, and a role that owns it and is no superuser.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$PGPASSWORD" --username=postgres --dbname=postgres <<'SQL'
CREATE ROLE notion_oauth LOGIN PASSWORD :'password';
CREATE DATABASE notion_oauth OWNER notion_oauth;
REVOKE CONNECT, TEMPORARY ON DATABASE notion_oauth FROM PUBLIC;
SQL
