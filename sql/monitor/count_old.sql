-- How much a clean-up would remove: history and events that are older than so many seconds.
SELECT (SELECT count(*) FROM pgwarm.lag_history
         WHERE sampled_at < clock_timestamp() - make_interval(secs => $1::float8))::int8 AS lag,
       (SELECT count(*) FROM pgwarm.events
         WHERE happened_at < clock_timestamp() - make_interval(secs => $2::float8))::int8 AS events
