-- Ends the backup of this session. It does not wait for the archive: we look there ourselves. PostgreSQL 15 and later.
SELECT stopped.lsn::text AS stop_lsn, stopped.labelfile AS label, stopped.spcmapfile AS map
  FROM pg_backup_stop(wait_for_archive => false) AS stopped
