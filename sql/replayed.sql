-- How far a standby has replayed, and whether somebody paused it or delays it.
SELECT pg_last_wal_replay_lsn()::text AS replayed_lsn,
       pg_is_wal_replay_paused() AS paused,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'recovery_min_apply_delay') AS delay_ms
