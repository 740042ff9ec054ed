-- True on a standby and on a server that is being restored.
SELECT pg_is_in_recovery() AS in_recovery
