-- Makes a physical slot that holds WAL back from now on.
SELECT lsn::text AS restart_lsn FROM pg_create_physical_replication_slot($1, true)
