-- Asked once on every new connection: it proves that the server answers queries, and says which kind of server it is.
SELECT current_setting('server_version_num')::int4 AS version,
       pg_is_in_recovery() AS in_recovery,
       current_setting('transaction_read_only')::bool AS read_only
