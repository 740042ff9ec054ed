-- A new primary is registered: the one before it becomes a standby out of service, until it is registered again.
UPDATE pgwarm.nodes
   SET role = 'standby',
       active = false,
       upstream_id = NULL
 WHERE role = 'primary'
   AND name <> $1::text
