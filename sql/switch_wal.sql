-- Ends the current segment. On an idle server that has just switched, nothing happens and the same end comes back.
-- The name is that of the segment that holds the last byte before the end.
SELECT switched.stopped::text AS end_lsn,
       pg_walfile_name(switched.stopped) AS segment
  FROM (SELECT pg_switch_wal() AS stopped) AS switched
