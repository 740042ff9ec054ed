-- Whether this database holds a copy that a witness keeps, of what and how old, and how many nodes are written here.
SELECT copy.system_identifier, copy.timeline, copy.primary_name,
       extract(epoch FROM clock_timestamp() - copy.copied_at)::float8 AS age,
       (SELECT count(*) FROM pgwarm.nodes)::int8 AS nodes
  FROM (SELECT 1) AS one
  LEFT JOIN pgwarm.copies AS copy ON true
