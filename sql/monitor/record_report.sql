-- Keeps what a node says of itself, in place of what it said before.
INSERT INTO pgwarm.reports (node_id, reported_at, report)
SELECT id, clock_timestamp(), $2::text::jsonb FROM pgwarm.nodes WHERE name = $1::text
ON CONFLICT (node_id) DO UPDATE
   SET reported_at = EXCLUDED.reported_at,
       report = EXCLUDED.report
