-- Writes down how far a node is. A node that is not registered has no history.
INSERT INTO pgwarm.lag_history (
       node_id, sampled_at, primary_id, timeline, primary_lsn, sent_lsn, written_lsn, flushed_lsn, replayed_lsn,
       archived_lsn, relayed_lsn, restorable_lsn, received_seconds, replayed_seconds, archived_seconds, replayed_at)
SELECT node.id, clock_timestamp(), (SELECT id FROM pgwarm.nodes WHERE name = $2::text), $3::int8,
       $4::text::pg_lsn, $5::text::pg_lsn, $6::text::pg_lsn, $7::text::pg_lsn, $8::text::pg_lsn,
       $9::text::pg_lsn, $10::text::pg_lsn, $11::text::pg_lsn, $12::float8, $13::float8, $14::float8,
       clock_timestamp() - make_interval(secs => $15::float8)
  FROM pgwarm.nodes AS node
 WHERE node.name = $1::text
