-- Whoever is connected for replication, as the primary's resource agent judges it.
SELECT application_name::text AS name, state::text AS state, sync_state::text AS sync, flush_lsn::text AS flushed
  FROM pg_stat_replication
 WHERE state IS NOT NULL
