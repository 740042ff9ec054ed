-- The segment in pg_wal that begins earliest, whatever its timeline. Needs pg_monitor.
SELECT name AS segment
  FROM pg_ls_waldir()
 WHERE name ~ '^[0-9A-F]{24}$'
 ORDER BY substr(name, 9), name
 LIMIT 1
