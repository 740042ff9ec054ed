-- The WAL summaries of a timeline that reach into a range, in their order. PostgreSQL 17 and later.
SELECT summary.start_lsn::text AS start_lsn, summary.end_lsn::text AS end_lsn
  FROM pg_available_wal_summaries() AS summary
 WHERE summary.tli = $1::int8
   AND summary.end_lsn > $2::text::pg_lsn
   AND summary.start_lsn < $3::text::pg_lsn
 ORDER BY summary.start_lsn
