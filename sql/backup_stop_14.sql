-- Ends the backup of this session. It does not wait for the archive: we look there ourselves. Up to PostgreSQL 14.
SELECT stopped.lsn::text AS stop_lsn, stopped.labelfile AS label, stopped.spcmapfile AS map
  FROM pg_stop_backup(exclusive => false, wait_for_archive => false) AS stopped
