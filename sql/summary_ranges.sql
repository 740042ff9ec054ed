-- The WAL summaries of a timeline that reach into a range, in their order, and whether each was written before some
-- moment, in whole seconds. PostgreSQL 17 and later.
SELECT summary.start_lsn::text AS start_lsn, summary.end_lsn::text AS end_lsn,
       (SELECT file.modification < date_trunc('second', $4::text::timestamptz)
          FROM pg_stat_file('pg_wal/summaries/' || upper(
                   lpad(to_hex(summary.tli), 8, '0')
                   || lpad(split_part(summary.start_lsn::text, '/', 1), 8, '0')
                   || lpad(split_part(summary.start_lsn::text, '/', 2), 8, '0')
                   || lpad(split_part(summary.end_lsn::text, '/', 1), 8, '0')
                   || lpad(split_part(summary.end_lsn::text, '/', 2), 8, '0')) || '.summary', true) AS file) AS older
  FROM pg_available_wal_summaries() AS summary
 WHERE summary.tli = $1::int8
   AND summary.end_lsn > $2::text::pg_lsn
   AND summary.start_lsn < $3::text::pg_lsn
 ORDER BY summary.start_lsn
