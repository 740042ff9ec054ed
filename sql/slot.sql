-- A replication slot, if there is one of that name.
SELECT slot_type = 'physical' AS physical, active, restart_lsn::text AS restart_lsn
  FROM pg_replication_slots
 WHERE slot_name = $1
