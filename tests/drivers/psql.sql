-- What psql does through a pooler must look as it does without one: meta-commands, COPY, errors, cursors.
\set ON_ERROR_STOP off
\set VERBOSITY verbose
\set SHOW_CONTEXT always
\pset null '(null)'
DROP TABLE IF EXISTS psql_check;
CREATE TABLE psql_check (id serial PRIMARY KEY, name text, at timestamptz DEFAULT '2024-02-29 12:00+00');
COPY psql_check (name) FROM STDIN;
one
two
\N
\.
SELECT * FROM psql_check ORDER BY id;
\d psql_check
\copy (SELECT name FROM psql_check ORDER BY id) TO STDOUT
\echo :ROW_COUNT :ERROR :SQLSTATE
SELECT 1/0;
\echo :ROW_COUNT :ERROR :SQLSTATE
SELECT * FROM nowhere;
BEGIN;
INSERT INTO psql_check (name) VALUES ('in a transaction') RETURNING id, name;
SAVEPOINT s;
SELECT 'x'::int;
SELECT 'ignored';
ROLLBACK TO s;
DECLARE c CURSOR FOR SELECT generate_series(1, 10);
FETCH 3 FROM c;
\set FETCH_COUNT 4
SELECT generate_series(1, 10) AS fetched;
\set FETCH_COUNT 0
COMMIT;
SELECT count(*) FROM psql_check;
SELECT 1 AS a \; SELECT 2 AS b;
SELECT 'expanded' AS x, 1 AS y \gx
SELECT format('SELECT %s', i) FROM generate_series(1, 3) i \gexec
DO $$ BEGIN RAISE NOTICE 'noticed'; END $$;
SET timezone = 'Asia/Kolkata';
SELECT at FROM psql_check WHERE id = 1;
RESET timezone;
SELECT at FROM psql_check WHERE id = 1;
\encoding LATIN1
SELECT U&'\00e4' = chr(228) AS umlaut;
\encoding UTF8
DROP TABLE psql_check;
