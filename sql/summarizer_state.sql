-- Whether the server summarizes its WAL, and how far that has come. PostgreSQL 17 and later.
SELECT current_setting('summarize_wal')::bool AS summarizes,
       summarized_tli::int8 AS timeline,
       summarized_lsn::text AS lsn
  FROM pg_get_wal_summarizer_state()
