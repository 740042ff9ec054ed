-- What a standby replays and receives, in one row. A role that may not see the receiver's details gets NULL for them.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused,
       (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo') AS upstream,
       receiver.status AS status,
       receiver.received_tli::int8 AS timeline,
       receiver.flushed_lsn::text AS flushed_lsn,
       receiver.latest_end_lsn::text AS told_lsn,
       extract(epoch FROM clock_timestamp() - receiver.last_msg_receipt_time)::float8 AS message_age,
       receiver.sender_host AS sender_host,
       receiver.sender_port::int4 AS sender_port
  FROM (SELECT 1) AS one
  LEFT JOIN pg_stat_wal_receiver AS receiver ON true
