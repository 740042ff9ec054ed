-- Drops a physical slot that nobody uses; no row where it is in use, or not there.
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active
