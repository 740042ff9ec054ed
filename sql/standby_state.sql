-- How far a standby has come, and where its WAL comes from. The receiver's columns are NULL where there is none, and
-- all but its process where the role may not see them.
SELECT pg_is_in_recovery() AS in_recovery,
       pg_last_wal_replay_lsn()::text AS replayed_lsn,
       pg_last_wal_receive_lsn()::text AS received_lsn,
       extract(epoch FROM pg_last_xact_replay_timestamp())::float8 AS replayed_at,
       receiver.status,
       receiver.sender_host,
       receiver.sender_port,
       receiver.slot_name,
       receiver.received_tli::int8 AS timeline
  FROM (SELECT 1) AS one
  LEFT JOIN pg_stat_wal_receiver AS receiver ON true
