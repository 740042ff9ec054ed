-- Every tablespace that lies outside the data directory.
SELECT oid::int8 AS oid, pg_tablespace_location(oid) AS location
  FROM pg_tablespace
 WHERE pg_tablespace_location(oid) <> ''
 ORDER BY oid
