-- The size of a page in bytes, and how many pages a file of a relation holds at most.
SELECT max(setting) FILTER (WHERE name = 'block_size')::int8 AS page,
       max(setting) FILTER (WHERE name = 'segment_size')::int8 AS pages
  FROM pg_settings
