-- Whether a standby streams, and on which timeline.
SELECT receiver.status AS status,
       receiver.received_tli::int8 AS timeline
  FROM pg_stat_wal_receiver AS receiver
