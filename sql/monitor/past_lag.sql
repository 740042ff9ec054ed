-- How far each node was behind over the last hour, in steps of so many seconds, oldest first: by the path that says
-- most, the worst of each step. A node that was the primary has no distance. An hour of steps bounds the answer.
SELECT node.name, step.at, step.seen, step.written, step.bytes
  FROM pgwarm.nodes AS node
 CROSS JOIN LATERAL (
       SELECT (floor(extract(epoch FROM history.sampled_at) / $1::float8) * $1::float8)::float8 AS at,
              extract(epoch FROM max(history.sampled_at))::float8 AS seen,
              max(history.primary_lsn)::text AS written,
              max(CASE WHEN history.primary_id IS DISTINCT FROM history.node_id THEN
                  (history.primary_lsn - coalesce(history.replayed_lsn, history.flushed_lsn, history.relayed_lsn,
                                                  history.archived_lsn))::int8 END) AS bytes
         FROM pgwarm.lag_history AS history
        WHERE history.node_id = node.id
          AND history.sampled_at > clock_timestamp() - interval '1 hour'
        GROUP BY 1) AS step
 ORDER BY step.at
