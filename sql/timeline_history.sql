-- The history of a timeline as the server holds it; no text where it has none. Needs pg_read_server_files.
SELECT pg_read_file('pg_wal/' || $1, 0, 1048576, true) AS history
