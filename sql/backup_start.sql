-- Begins a backup; it ends with this session at the latest. PostgreSQL 15 and later.
SELECT pg_backup_start($1::text, fast => $2::bool)::text AS start_lsn
