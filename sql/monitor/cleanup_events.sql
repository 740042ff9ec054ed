-- Removes events that are older than so many seconds.
WITH gone AS (
    DELETE FROM pgwarm.events
     WHERE happened_at < clock_timestamp() - make_interval(secs => $1::float8)
    RETURNING 1
)
SELECT count(*)::int8 AS removed FROM gone
