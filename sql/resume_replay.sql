-- Lets a paused replay go on.
SELECT pg_wal_replay_resume()
