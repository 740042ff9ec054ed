-- Whether the server takes writes, and on which timeline it writes them.
SELECT NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::bool AS open,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 & 4294967295
       END AS timeline
