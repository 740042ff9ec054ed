-- Pauses the monitor, for so many seconds or until it is told to go on; anew where it is paused already.
INSERT INTO pgwarm.pauses (since, until, node_name, reason)
VALUES (clock_timestamp(), clock_timestamp() + make_interval(secs => $1::float8), $2::text, $3::text)
ON CONFLICT (only_row) DO UPDATE
   SET since = EXCLUDED.since,
       until = EXCLUDED.until,
       node_name = EXCLUDED.node_name,
       reason = EXCLUDED.reason
