-- Begins a backup that is not exclusive; it ends with this session at the latest. Up to PostgreSQL 14.
SELECT pg_start_backup($1::text, $2::bool, false)::text AS start_lsn
