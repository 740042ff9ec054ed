-- Writes a little WAL, so that the next switch ends a segment.
SELECT pg_logical_emit_message(false, 'pgwarm', 'base-backup')::text AS lsn
