-- What a server offers to one that is to be copied from it or to stream from it, in one row.
-- A database that the role may not connect to is left out of the size, for asking would be refused.
SELECT (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT'))::int8 AS size,
       current_setting('wal_level') AS wal_level,
       -- In megabytes; -1: without bound. PostgreSQL 13 and later.
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS slot_keep,
       coalesce((SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), false) AS may_replicate,
       -- What pg_rewind needs: to list and to read files.
       has_function_privilege('pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE')
           AND has_function_privilege('pg_ls_dir(text, boolean, boolean)', 'EXECUTE')
           AND has_function_privilege('pg_stat_file(text, boolean)', 'EXECUTE') AS may_read,
       current_setting('full_page_writes') = 'on' AS full_pages
