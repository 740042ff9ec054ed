-- While no primary can be written to, the daemon that gets this lock on a standby tells of the event; it ends with its
-- session. The first number is ours, the second stands for the event.
SELECT pg_try_advisory_lock(7367726, $1::int4) AS ours
