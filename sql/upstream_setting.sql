-- What the server streams from, and the file that says so; NULL where no file does.
SELECT setting AS value,
       sourcefile AS file
  FROM pg_settings
 WHERE name = 'primary_conninfo'
