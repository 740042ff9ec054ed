-- Holds back all WAL from now on, for as long as this session lasts: a copy that is being made needs it.
SELECT lsn::text AS restart_lsn FROM pg_create_physical_replication_slot($1, true, true)
