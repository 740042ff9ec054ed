-- One upgrade of the monitor's schema, or one new copy of it, at a time; the lock ends with the transaction. The number is ours alone.
SELECT pg_advisory_xact_lock(7367726)::text AS locked
