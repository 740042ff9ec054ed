-- Removes the history of lag that is older than so many seconds.
WITH gone AS (
    DELETE FROM pgwarm.lag_history
     WHERE sampled_at < clock_timestamp() - make_interval(secs => $1::float8)
    RETURNING 1
)
SELECT count(*)::int8 AS removed FROM gone
