-- What one WAL summary says of main forks: where each was cut at the lowest, and which stretches of so many blocks were
-- written. A relation 0 stands for all of that database in that tablespace. PostgreSQL 17 and later.
SELECT reltablespace::int8 AS space, reldatabase::int8 AS database, relfilenode::int8 AS relation,
       min(relblocknumber) FILTER (WHERE is_limit_block) AS cut,
       coalesce(array_agg(DISTINCT relblocknumber / $4::int8) FILTER (WHERE NOT is_limit_block), '{}') AS written
  FROM pg_wal_summary_contents($1::int8, $2::text::pg_lsn, $3::text::pg_lsn)
 WHERE relforknumber = 0
 GROUP BY reltablespace, reldatabase, relfilenode
