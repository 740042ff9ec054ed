-- What waits for the archiver: how many files, and the age of the oldest in seconds. It lists a folder of the server,
-- which pg_monitor may do, so it is asked less often than the rest.
SELECT count(*)::int8 AS files,
       extract(epoch FROM clock_timestamp() - min(modification))::float8 AS oldest_age,
       (array_agg(left(name, -6) ORDER BY modification, name))[1] AS oldest
  FROM pg_ls_archive_statusdir()
 WHERE name LIKE '%.ready'
